"""Finding the tree, and telling containers by names that others chose."""

from pathlib import Path

import pytest

from netiso.cgroups import (
    children,
    ensure,
    find_root,
    identity,
    is_container,
    search,
)
from webguard.errors import HostError

ID = "0123456789abcdef" * 4

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""
PURE = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
PART = "90 23 0:27 /docker/abc /mnt rw - cgroup2 cgroup2 rw\n"
COPY = "91 23 0:27 / /var/lib/some/where rw - cgroup2 cgroup2 rw\n"
BLANK = "92 23 0:27 / /mnt/a\\040b rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("mounts", "root"),
    [
        pytest.param(HYBRID, "/sys/fs/cgroup/unified", id="hybrid"),
        pytest.param(PURE, "/sys/fs/cgroup", id="pure v2"),
        pytest.param(PART + PURE, "/sys/fs/cgroup", id="a part of it mounted elsewhere"),
        pytest.param(COPY + PURE, "/sys/fs/cgroup", id="mounted twice"),
        pytest.param(BLANK, "/mnt/a b", id="blank in the path"),
        pytest.param("garbage\n\n - cgroup2\n" + PURE, "/sys/fs/cgroup", id="lines cut short"),
    ],
)
def test_the_tree_is_found_where_it_is_mounted(tmp_path: Path, mounts: str, root: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(mounts)

    assert find_root(table) == Path(root)


@pytest.mark.parametrize("mounts", ["", PART], ids=["no mount", "only a part"])
def test_a_host_without_the_tree_is_told_what_to_do(tmp_path: Path, mounts: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(mounts)

    with pytest.raises(HostError, match="mount -t cgroup2"):
        find_root(table)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(ID, id="a bare id"),
        pytest.param(f"docker-{ID}.scope", id="docker, systemd"),
        pytest.param(f"cri-containerd-{ID}.scope", id="pod"),
        pytest.param(f"new-thing-{ID}.scope", id="unknown prefix"),
    ],
)
def test_a_container_has_its_id_in_its_name(name: str) -> None:
    assert is_container(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"libpod-conmon-{ID}.scope", id="podman's monitor"),
        pytest.param(f"crio-conmon-{ID}.scope", id="CRI-O's monitor"),
        pytest.param("docker", id="only the parent"),
        pytest.param("ssh.service", id="a service"),
        pytest.param(ID[:-1], id="id too short"),
        pytest.param(f"{ID}0", id="id too long"),
        pytest.param(ID.upper(), id="not as runtimes write it"),
        pytest.param(f"{ID}\n", id="newline at the end"),
        pytest.param(f"{ID}.scope.d", id="more at the end"),
        pytest.param("", id="the root"),
    ],
)
def test_what_else_has_a_name_is_no_container(name: str) -> None:
    assert not is_container(name)


def test_a_search_finds_an_id_and_gives_up_at_its_limit(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "z").mkdir()
    wanted = identity(deep)
    assert wanted

    assert search(wanted, tmp_path) == "a/b/c"
    assert search(wanted, tmp_path, limit=3) is None
    assert search(1, tmp_path) is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")

    assert children(tmp_path / "tree") == []
    assert children(tmp_path / "gone") == []


def test_a_parent_that_was_missing_is_made_and_removed_again(tmp_path: Path) -> None:
    made = ensure(tmp_path, "docker")
    again = ensure(tmp_path, "docker")

    assert (tmp_path / "docker").is_dir()
    assert again.id == made.id
    assert not again.remove()  # was there before: not ours to remove
    assert made.remove()
    assert not (tmp_path / "docker").exists()


def test_a_parent_in_use_stays(tmp_path: Path) -> None:
    made = ensure(tmp_path, "docker")
    (tmp_path / "docker" / ID).mkdir()

    assert not made.remove()
    assert (tmp_path / "docker" / ID).is_dir()


def test_what_an_earlier_run_left_of_our_own_is_removed_too(tmp_path: Path) -> None:
    (tmp_path / "webguard-selftest").mkdir()

    assert ensure(tmp_path, "webguard-selftest", ours=True).remove()
    assert not (tmp_path / "webguard-selftest").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_only_a_name_right_below_the_root_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        ensure(tmp_path, name)
