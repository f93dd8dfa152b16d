"""The walk: what it opens, what it never opens, and what cannot lead it astray."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from webguard.daemon.walk import DEEPEST, File, Folder, Missed, Passed, Step, walk


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers, not paths


def taken(steps: Iterator[Step]) -> list[Step]:
    """All steps; their files are closed."""
    found = list(steps)
    for each in found:
        if isinstance(each, File):
            os.close(each.descriptor)
    return found


def tree(top: Path) -> list[Step]:
    return taken(walk([str(top)]))


def paths(steps: list[Step], kind: type[Step]) -> set[str]:
    return {each.path for each in steps if isinstance(each, kind)}


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


def test_every_file_comes_open_for_reading(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "one").write_text("1")
    (tmp_path / "a/b/two").write_text("22")

    read = {}
    for step in walk([str(tmp_path)]):
        if isinstance(step, File):
            read[step.path] = (os.read(step.descriptor, 9), step.size)
            assert not os.get_inheritable(step.descriptor)
            os.close(step.descriptor)

    assert read == {f"{tmp_path}/one": (b"1", 1), f"{tmp_path}/a/b/two": (b"22", 2)}


def test_links_devices_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file link").symlink_to("/etc/passwd")
    (tmp_path / "folder link").symlink_to("/etc")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))

        steps = tree(tmp_path)

    assert paths(steps, File) == set()
    assert sorted(each.what for each in steps if isinstance(each, Passed)) == [
        "FIFO",
        "link",
        "link",
        "link",
        "socket",
    ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("/dev/null", "it is a device", id="device"),
        pytest.param("/proc", "it is a file system of the kernel's own", id="proc"),
        pytest.param("/proc/self/status", "it is a file system of the kernel's own", id="in proc"),
        pytest.param("/dev/null/x", "not a directory", id="below no folder"),
    ],
)
def test_what_was_named_and_cannot_be_scanned_is_told(path: str, reason: str) -> None:
    assert [each.reason for each in taken(walk([path])) if isinstance(each, Missed)] == [reason]


def test_a_named_pipe_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    assert tree(tmp_path / "fifo") == [Missed(f"{tmp_path}/fifo", "it is a FIFO")]


def test_a_named_path_that_is_not_there_is_told_and_the_next_is_walked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    missed, file = taken(walk([f"{tmp_path}/none", f"{tmp_path}/file"]))

    assert missed == Missed(f"{tmp_path}/none", "no such file or directory", absent=True)
    assert file.path == f"{tmp_path}/file"


def test_a_link_is_followed_where_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "link").symlink_to("real")

    assert paths(tree(tmp_path / "link"), File) == {f"{tmp_path}/link/file"}


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    names = [b"a\nb", b"\xff\xfe", b"\x1b[2J", b" ", b"-rf", "\u202e".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()

    found = {os.fsencode(path).rpartition(b"/")[2] for path in paths(tree(tmp_path), File)}

    assert found == set(names)


def test_a_folder_that_becomes_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "top/inner").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").touch()

    steps = walk([f"{tmp_path}/top"])
    assert next(steps) == Folder(f"{tmp_path}/top")
    (tmp_path / "top/inner").rmdir()
    (tmp_path / "top/inner").symlink_to(tmp_path / "secret")
    rest = taken(steps)

    assert rest == [Passed(f"{tmp_path}/top/inner", "link")]


def test_a_folder_that_is_exchanged_while_we_are_in_it_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "top/inner/deep").mkdir(parents=True)
    (tmp_path / "top/inner/deep/mine").touch()
    (tmp_path / "secret/deep").mkdir(parents=True)
    (tmp_path / "secret/deep/file").touch()

    steps = walk([f"{tmp_path}/top"])
    assert [next(steps), next(steps)] == [
        Folder(f"{tmp_path}/top"),
        Folder(f"{tmp_path}/top/inner"),
    ]
    (tmp_path / "top/inner").rename(tmp_path / "moved")
    (tmp_path / "top/inner").symlink_to(tmp_path / "secret")
    rest = taken(steps)

    assert paths(rest, File) == {f"{tmp_path}/top/inner/deep/mine"}


def test_a_file_that_has_gone_is_not_missed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch()

    steps = walk([str(tmp_path)])
    next(steps)
    first = next(steps)
    assert isinstance(first, File)
    os.close(first.descriptor)
    for name in ("one", "two"):
        (tmp_path / name).unlink()

    assert [type(each) for each in taken(steps)] in ([Passed], [])


def test_depth_is_bounded_and_told(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEEPEST + 5):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)

    steps = tree(tmp_path)

    assert [each.reason for each in steps if isinstance(each, Missed)] == [
        f"more than {DEEPEST} folders deep"
    ]
    assert len(paths(steps, Folder)) == DEEPEST


def test_a_walk_that_is_given_up_closes_everything(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)

    steps = walk([str(tmp_path)])
    for _ in range(3):
        next(steps)
    steps.close()  # the fixture looks
