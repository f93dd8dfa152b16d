"""The real cgroup tree: ids, removal and re-creation."""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from netiso.cgroup_watch import CgroupWatch
from netiso.cgroups import ensure, find_root, path_of, search

pytestmark = pytest.mark.system


@pytest.fixture
def parent() -> Iterator[Path]:
    """A level 1 cgroup of a random name, removed with all below it."""
    path = find_root() / f"wgniso-{secrets.token_hex(8)}"
    path.mkdir()
    yield path
    for each in sorted((each for each in path.rglob("*") if each.is_dir()), reverse=True):
        with suppress(OSError):
            each.rmdir()
    path.rmdir()


def test_an_id_leads_to_its_path_until_the_cgroup_is_gone(parent: Path) -> None:
    root = find_root()
    inside = parent / "one" / "two"
    inside.mkdir(parents=True)
    cgroup = inside.stat().st_ino

    assert path_of(cgroup, root) == f"{parent.name}/one/two"
    assert search(cgroup, root) == f"{parent.name}/one/two"
    inside.rmdir()
    assert path_of(cgroup, root) is None
    assert path_of(2**60, root) is None


def test_an_id_outside_the_tree_we_were_given_has_no_path(parent: Path) -> None:
    (parent / "one").mkdir()
    (parent / "two").mkdir()

    assert path_of((parent / "two").stat().st_ino, parent / "one") is None


def test_a_parent_made_again_between_two_looks_has_its_new_id(parent: Path) -> None:
    watch = CgroupWatch(parent, ["docker"])
    try:
        old = ensure(parent, "docker")
        (first,) = watch.scan().added
        assert old.remove()
        new = ensure(parent, "docker")
        changes = watch.drain()
    finally:
        watch.close()

    assert first == (1, old.id, "docker")
    assert changes.removed == ((1, old.id, "docker"),)
    assert changes.added == ((1, new.id, "docker"),)
    assert old.id != new.id


def test_a_slice_made_again_is_watched_again(parent: Path) -> None:
    container = parent / "a.slice" / ("ab" * 32)
    container.mkdir(parents=True)
    watch = CgroupWatch(parent)
    try:
        watch.scan()
        container.rmdir()
        container.parent.rmdir()
        container.parent.mkdir()
        watch.drain()
        container.mkdir()
        (entry,) = watch.drain().added
    finally:
        watch.close()

    assert entry == (2, container.stat().st_ino, f"a.slice/{container.name}")
