"""Where a record must not be: named, and left alone."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from webguard.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.webguard.store.conftest import StoreMaker


def _symlink(path: Path) -> None:
    (path.parent / "elsewhere").touch(0o600)
    path.symlink_to(path.parent / "elsewhere")


def _second_name(path: Path) -> None:
    path.touch(0o600)
    (path.parent / "elsewhere").hardlink_to(path)


def _open_to_all(path: Path) -> None:
    path.touch()
    path.chmod(0o644)


def _folder_of_all(path: Path) -> None:
    path.parent.chmod(0o777)


def _no_folder(path: Path) -> None:
    path.parent.rmdir()


def _not_ours(path: Path) -> None:
    path.touch(0o600)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cookies (name)")
    other.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(_symlink, "not a plain file", id="symlink"),
        pytest.param(_second_name, "not a plain file", id="second name"),
        pytest.param(_open_to_all, "others can open it", id="mode"),
        pytest.param(_folder_of_all, "others can write to this folder", id="folder"),
        pytest.param(_no_folder, "there is no such folder", id="no folder"),
        pytest.param(_not_ours, "another program's data base", id="another program"),
    ],
)
def test_a_path_that_is_not_ours_is_named_and_left_alone(
    a_store: StoreMaker, path: Path, spoil: object, said: str
) -> None:
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes() if path.exists() else b""

    with pytest.raises(HostError, match=said):
        a_store()

    assert (path.read_bytes() if path.exists() else b"") == before
