"""What the kernel writes, and what a container can make it write."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.model import Network
from webguard.runtimes import proc
from webguard.runtimes.place import Layout
from webguard.runtimes.proc import (
    own_netns,
    parse_cgroup,
    parse_mountinfo,
    parse_started,
    unified_root,
)

ID = "0123456789abcdef" * 4
OTHER = "f" * 64


def test_the_v2_line_is_found_on_a_hybrid_host() -> None:
    content = f"9:name=systemd:/docker/{OTHER}\n4:memory:/x\n0::/docker/{ID}\n".encode()

    assert parse_cgroup(content) == f"/docker/{ID}"


@pytest.mark.parametrize("content", [b"", b"4:memory:/x\n", b"10::/x\n", b"0:", b"0::relative"])
def test_no_v2_line_is_none(content: bytes) -> None:
    assert parse_cgroup(content) is None


@pytest.mark.parametrize(
    "name", [b"sleep", b"a b", b") R 1 1", b"(((", b"\n1 (x) S", b"\xff\xfe", b""]
)
def test_a_programs_name_cannot_forge_its_start_time(name: bytes) -> None:
    fields = b" ".join(str(number).encode() for number in range(4, 53))

    assert parse_started(b"7 (" + name + b") S " + fields + b"\n") == 22


@pytest.mark.parametrize(
    "content", [b"", b"7 (x) S 1 2 3", b"no brackets " * 30, b"7 (x) S" + b" x" * 40]
)
def test_a_stat_that_is_cut_off_has_no_start_time(content: bytes) -> None:
    assert parse_started(content) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param(
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
            "/sys/fs/cgroup/unified",
            id="hybrid",
        ),
        pytest.param(
            "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw",
            "/sys/fs/cgroup",
            id="pure, with optional fields",
        ),
        pytest.param("30 24 0:26 / /a\\040b rw - cgroup2 c rw", "/a b", id="a space"),
        pytest.param("30 24 0:26 /docker/x /mnt rw - cgroup2 c rw", None, id="a bind mount"),
        pytest.param("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw", None, id="v1"),
        pytest.param("30 24 0:26 / /cgroup2 rw - tmpfs cgroup2 rw", None, id="another's name"),
        pytest.param("- cgroup2", None, id="cut off"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_v2_root_is_found_among_mounts(line: str, found: str | None) -> None:
    content = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n{line}\n".encode()

    assert parse_mountinfo(content) == found


def test_this_machine_has_a_v2_root_with_our_own_cgroup_below_it() -> None:
    assert (unified_root() / "cgroup.procs").exists()


def test_the_host_is_our_own_network_namespace() -> None:
    assert own_netns() == os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - as the kernel says


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_without_raising(content: bytes) -> None:
    parse_cgroup(content)
    parse_cgroup(b"0::/" + content)
    parse_started(b"1 (" + content)
    parse_mountinfo(b"1 1 1 / /\\777" + content + b" - cgroup2 x")


@pytest.fixture
def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup root with one container; its oldest process has just ended, another lives."""
    fake = tmp_path / "proc"
    monkeypatch.setattr(proc, "_PROC", fake)
    group = tmp_path / "cgroup" / "docker" / ID
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("11\n12\n")
    for pid, started in ((11, 100), (12, 200)):
        folder = fake / str(pid)
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(f"0::/docker/{ID}\n")
        (folder / "stat").write_text(f"{pid} (x) S {'0 ' * 18}{started} 0\n")
    (fake / "12/ns").mkdir()
    (fake / "12/ns/net").touch()
    return tmp_path / "cgroup"


@pytest.mark.parametrize("look", ["at one", "at all"])
def test_a_container_is_measured_by_a_process_that_still_lives(starting: Path, look: str) -> None:
    own = (proc._PROC / "12/ns/net").stat().st_ino
    layout = Layout()

    if look == "at one":
        seen = proc.at(starting, f"/docker/{ID}", own, layout)
    else:
        (seen,) = proc.containers(starting, own, layout)

    assert seen is not None
    assert (seen.pid, seen.started, seen.network) == (12, 200, Network.HOST)


def test_a_container_whose_processes_all_changed_meanwhile_is_looked_at_again(
    starting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "_pids", lambda: iter([11]))  # 12 was not there yet

    (seen,) = proc.containers(starting, 1, Layout())

    assert (seen.pid, seen.network) == (12, Network.PRIVATE)


def test_a_container_of_which_no_process_lives_has_no_known_network(starting: Path) -> None:
    (proc._PROC / "12/ns/net").unlink()

    (seen,) = proc.containers(starting, 1, Layout())

    assert (seen.pid, seen.network) == (11, Network.UNKNOWN)
