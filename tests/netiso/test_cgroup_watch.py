"""Directories come and go; the watch says which are containers. Plain directories will do."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netiso.cgroup_watch import CgroupWatch, Changes

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4

type Watch = Callable[..., CgroupWatch]


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watch]:
    made: list[CgroupWatch] = []

    def make(*exclusive: str, levels: int = 8, limit: int = 4096) -> CgroupWatch:
        made.append(CgroupWatch(tmp_path, exclusive, levels=levels, limit=limit))
        return made[-1]

    yield make
    for each in made:
        each.close()


def paths(changes: Changes) -> tuple[set[str], set[str]]:
    return {path for _, _, path in changes.added}, {path for _, _, path in changes.removed}


@pytest.mark.parametrize(
    ("path", "level"),
    [
        pytest.param(f"docker-{ID}.scope", 1, id="level 1"),
        pytest.param(f"system.slice/docker-{ID}.scope", 2, id="level 2"),
        pytest.param(f"a/b/c/cri-containerd-{ID}.scope", 4, id="level 4"),
        pytest.param(f"a/b/c/d/e/f/g/{ID}", 8, id="the deepest level"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_container_is_found_at_any_level(
    tmp_path: Path, watching: Watch, path: str, level: int, when: str
) -> None:
    watch = watching()
    if when == "before":
        (tmp_path / path).mkdir(parents=True)
    scanned = watch.scan()
    if when == "after":
        (tmp_path / path).mkdir(parents=True)
    changes = scanned or watch.drain()

    assert changes.added == ((level, (tmp_path / path).stat().st_ino, path),)
    assert changes.removed == ()
    assert watch.entries == changes.added


def test_below_the_deepest_level_nothing_is_matched(tmp_path: Path, watching: Watch) -> None:
    watch = watching(levels=2)
    (tmp_path / "a" / "b" / ID).mkdir(parents=True)

    assert not watch.scan()


def test_what_is_no_container_is_not_matched(tmp_path: Path, watching: Watch) -> None:
    watch = watching()
    watch.scan()
    (tmp_path / "system.slice" / "ssh.service").mkdir(parents=True)
    (tmp_path / f"libpod-conmon-{ID}.scope").mkdir()
    (tmp_path / ID).write_text("a file")

    assert not watch.drain()


def test_an_exclusive_parent_matches_as_a_whole(tmp_path: Path, watching: Watch) -> None:
    watch = watching("docker")
    assert not watch.scan()

    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / ID).mkdir()
    assert paths(watch.drain()) == ({"docker"}, set())
    shutil.rmtree(tmp_path / "docker")
    assert paths(watch.drain()) == (set(), {"docker"})
    assert watch.entries == ()


def test_an_exclusive_name_counts_right_below_the_root_only(
    tmp_path: Path, watching: Watch
) -> None:
    (tmp_path / "user" / "docker").mkdir(parents=True)

    assert not watching("docker").scan()


def test_inside_a_container_nothing_is_looked_at(tmp_path: Path, watching: Watch) -> None:
    watch = watching()
    (tmp_path / ID / "docker" / OTHER).mkdir(parents=True)

    assert paths(watch.scan()) == ({ID}, set())
    (tmp_path / ID / "more").mkdir()
    assert not watch.drain()


def test_a_container_that_ends_is_removed(tmp_path: Path, watching: Watch) -> None:
    (tmp_path / "a" / ID).mkdir(parents=True)
    watch = watching()
    found = watch.scan()

    shutil.rmtree(tmp_path / "a")

    assert watch.drain() == Changes((), found.added)
    (tmp_path / "a" / ID).mkdir(parents=True)
    assert paths(watch.drain()) == ({f"a/{ID}"}, set())


def test_what_comes_and_goes_between_two_looks_is_no_change(
    tmp_path: Path, watching: Watch
) -> None:
    watch = watching()
    watch.scan()

    (tmp_path / ID).mkdir()
    (tmp_path / ID).rmdir()

    assert not watch.drain()


def test_scanning_again_changes_nothing(tmp_path: Path, watching: Watch) -> None:
    (tmp_path / "a" / ID).mkdir(parents=True)
    watch = watching("docker")
    assert watch.scan()

    assert not watch.scan()
    assert not watch.drain()


def test_directories_that_cannot_be_watched_are_named(tmp_path: Path, watching: Watch) -> None:
    for name in "abcd":
        (tmp_path / name / ID).mkdir(parents=True)
    watch = watching(limit=3)  # the root and two of four

    changes = watch.scan()

    assert len(changes.added) == 4  # found, all the same
    assert len(watch.blind) == 2
    blind = min(watch.blind)
    (tmp_path / blind / OTHER).mkdir()
    assert not watch.drain()
    assert paths(watch.scan()) == ({f"{blind}/{OTHER}"}, set())


def test_a_directory_that_frees_its_watch_makes_room(tmp_path: Path, watching: Watch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    watch = watching(limit=2)
    watch.scan()
    (blind,) = watch.blind

    (tmp_path / ({"a", "b"} - {blind}).pop()).rmdir()
    watch.drain()
    watch.scan()

    assert watch.blind == set()
    (tmp_path / blind / ID).mkdir()
    assert paths(watch.drain()) == ({f"{blind}/{ID}"}, set())


def test_a_blind_directory_that_is_gone_is_no_longer_named(tmp_path: Path, watching: Watch) -> None:
    (tmp_path / "a" / "below").mkdir(parents=True)
    watch = watching(limit=1)
    watch.scan()
    assert watch.blind == {"a"}

    shutil.rmtree(tmp_path / "a")
    watch.drain()

    assert watch.blind == set()


def test_directories_without_end_are_not_counted_to_the_end(
    tmp_path: Path, watching: Watch
) -> None:
    for number in range(50):
        (tmp_path / f"d{number}" / "below").mkdir(parents=True)
    watch = watching(limit=5)

    watch.scan()

    assert len(watch.blind) == 5


@pytest.mark.system  # only because it makes thousands of directories
def test_lost_events_are_made_up_for_by_looking_at_everything(
    tmp_path: Path, watching: Watch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / OTHER).mkdir()
    watch = watching()
    watch.scan()
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(queue // 2 + 10):  # a creation and a removal each
        (tmp_path / "a" / f"x{number}").mkdir()
        (tmp_path / "a" / f"x{number}").rmdir()
    (tmp_path / "a" / ID).mkdir()  # nobody tells
    (tmp_path / OTHER).rmdir()

    added: set[str] = set()
    removed: set[str] = set()
    for _ in range(100):
        more = paths(watch.drain())
        added, removed = added | more[0], removed | more[1]

    assert (added, removed) == ({f"a/{ID}"}, {OTHER})
