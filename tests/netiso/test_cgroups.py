"""Finding the tree, and reading container ids out of paths that others chose."""

from pathlib import Path

import pytest

from netiso.cgroups import (
    children,
    container_id_of,
    ensure,
    find_root,
    identity,
    is_container,
    search,
)
from webguard.errors import HostError

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4

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
    ("path", "found"),
    [
        pytest.param(f"docker/{ID}", ("docker", ID), id="docker, cgroupfs"),
        pytest.param(f"/docker/{ID}/sub/dir", ("docker", ID), id="below a container"),
        pytest.param(f"system.slice/docker-{ID}.scope", ("docker", ID), id="docker, systemd"),
        pytest.param(f"machine.slice/libpod-{ID}.scope/container", ("podman", ID), id="podman"),
        pytest.param(f"libpod_parent/{ID}", ("podman", ID), id="podman, cgroupfs"),
        pytest.param(
            f"kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ("cri", ID), id="pod"
        ),
        pytest.param(f"kubepods/burstable/pod1/{ID}", ("cri", ID), id="pod, cgroupfs"),
        pytest.param(f"default/{ID}", ("proc", ID), id="runtime not known"),
        pytest.param(f"a.slice/new-thing-{ID}.scope", ("proc", ID), id="unknown prefix"),
        pytest.param(f"docker/{ID}/docker/{OTHER}", ("docker", ID), id="container in a container"),
        pytest.param(ID, ("proc", ID), id="at the root"),
        pytest.param(f"machine.slice/libpod-conmon-{ID}.scope", None, id="podman's monitor"),
        pytest.param(f"crio-conmon-{ID}.scope", None, id="CRI-O's monitor"),
        pytest.param("docker", None, id="only the parent"),
        pytest.param("system.slice/ssh.service", None, id="a service"),
        pytest.param(f"docker/{ID[:-1]}", None, id="id too short"),
        pytest.param(f"docker/{ID}0", None, id="id too long"),
        pytest.param(f"docker/{ID.upper()}", None, id="not as runtimes write it"),
        pytest.param(f"docker/{ID}\n", None, id="newline at the end"),
        pytest.param(f"docker/{ID}.scope.d", None, id="more at the end"),
        pytest.param("", None, id="the root"),
    ],
)
def test_container_ids_are_read_from_paths(path: str, found: tuple[str, str] | None) -> None:
    assert container_id_of(path) == found


def test_a_monitor_is_no_container_and_a_bare_id_is() -> None:
    assert is_container(ID)
    assert is_container(f"cri-containerd-{ID}.scope")
    assert not is_container(f"libpod-conmon-{ID}.scope")


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
