"""Paths in a root that is not ours, without a container: openat2 needs no privilege."""

import os
from pathlib import Path

import pytest

from certs.inside import Inside, StoreError


def an_inside(root: Path) -> Inside:
    """The folder `root` as a container's root. The descriptors are the test's to the end."""
    return Inside(os.open(root, os.O_PATH), os.open("/proc/self", os.O_PATH), {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("the host's\n")
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/file").write_text("the container's\n")
    return tmp_path / "root"


@pytest.mark.parametrize("up", [1, 20])
def test_dots_end_at_the_root(root: Path, up: int) -> None:
    (root / "etc/link").symlink_to("../" * up + "outside/file")

    with pytest.raises(FileNotFoundError):
        an_inside(root).locate("/etc/link")


def test_an_absolute_link_begins_at_the_root(root: Path) -> None:
    (root / "etc/link").symlink_to("/etc/file")
    (root / "etc/away").symlink_to(root.parent / "outside/file")
    inside = an_inside(root)

    with pytest.raises(FileNotFoundError):
        inside.locate("/etc/away")
    assert inside.dangling("/etc/away")
    assert not inside.dangling("/etc/nothing")


def test_a_file_that_was_exchanged_since_is_not_replaced(tmp_path: Path) -> None:
    inside = an_inside(Path("/"))  # the real path is told from the process's own root
    path = tmp_path / "bundle"
    path.write_text("first")
    found = inside.locate(str(path), restrict=0)
    (tmp_path / "other").write_text("second")
    (tmp_path / "other").rename(path)

    with pytest.raises(StoreError, match="changed while"):
        inside.replace(found, b"ours")

    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_read_is_what_was_found(tmp_path: Path) -> None:
    inside = an_inside(Path("/"))
    path = tmp_path / "bundle"
    path.write_text("first")
    found = inside.locate(str(path), restrict=0)
    (tmp_path / "other").write_text("second")
    (tmp_path / "other").rename(path)

    assert inside.read(found) == b"first"


def test_folders_are_made_as_needed_and_only_empty_ones_removed(tmp_path: Path) -> None:
    inside = an_inside(tmp_path)

    _, made = inside.make_folders("/etc/ssl/certs")
    (tmp_path / "etc/own").touch()
    inside.remove_folders(made)

    assert made == ["/etc", "/etc/ssl", "/etc/ssl/certs"]
    assert [p.name for p in tmp_path.rglob("*")] == ["etc", "own"]
