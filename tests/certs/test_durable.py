"""Files of our own that survive a crash as the old or the new one."""

import os
from pathlib import Path

import pytest

from certs import durable
from webguard.errors import HostError


def test_a_file_is_replaced_whole_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    old = os.umask(0o077)
    try:
        durable.write(path, b"new", 0o644)
    finally:
        os.umask(old)

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "file").symlink_to("victim")

    durable.write(tmp_path / "file", b"new", 0o600)

    assert (tmp_path / "victim").read_text() == "untouched"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("path", ["missing/file", "taken"])
def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "taken" / "full").mkdir(parents=True)

    with pytest.raises(HostError, match="write"):
        durable.write(tmp_path / path, b"x", 0o600)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]
