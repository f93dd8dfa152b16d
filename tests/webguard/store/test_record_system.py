"""The record on file systems that are full or read-only, and after a death in the middle."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from webguard.model import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.webguard.store.conftest import Maker, StoreMaker
    from webguard.store.record import Store

pytestmark = pytest.mark.system

_REPOSITORY = str(Path(__file__).parents[3])

# Writes events whose subjects count up, and says which ones it saw written.
_WRITER = """
import sys
from pathlib import Path
from webguard.daemon.clock import stamp
from webguard.model import Event
from webguard.store.record import Store
from webguard.store.writer import Keep

store = Store(Path(sys.argv[1]), stamp=stamp, keep=Keep(bytes=4 * 1024 * 1024))
number = 0
while True:
    for _ in range(40):
        event_id, at = stamp()
        store.record(Event(id=event_id, at=at, kind="test", subject=str(number), outcome="x" * 200))
        number += 1
    if store.flush(30):
        print(number - 1, flush=True)
"""


def mounted(*argv: str) -> None:
    subprocess.run(["mount", *argv], check=True, timeout=30, capture_output=True)


def unmounted(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True, timeout=30, capture_output=True)


@pytest.fixture
def tmpfs(path: Path) -> Iterator[Path]:
    """A small file system at the record's folder."""
    mounted("-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(path.parent))
    yield path.parent
    unmounted(path.parent)


@pytest.fixture
def ext4(path: Path, tmp_path: Path) -> Iterator[Path]:
    """A small file system on a loop device, which answers ENOSPC later than tmpfs does."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=30, capture_output=True)
    mounted("-o", "loop", str(image), str(path.parent))
    path.parent.chmod(0o700)
    yield path.parent
    unmounted(path.parent)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        for size in (65536, 4096, 512):
            while True:
                try:
                    os.write(file.fileno(), b"x" * size)
                except OSError:
                    break
    return ballast


def until(claim: Callable[[], bool], within: float = 60) -> None:
    end = time.monotonic() + within
    while not claim():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def web(store: Store) -> list[Event]:
    return [each for each in store.events() if each.kind == "web.blocked"]


def test_a_full_disk_costs_what_the_queue_does_not_hold_and_is_told(
    small_disk: Path, a_store: StoreMaker, make: Maker
) -> None:
    store = a_store(most_waiting=100)
    first = make.events(50)
    for each in first:
        store.record(each)
    assert store.flush(30)
    ballast = fill(small_disk)

    sent = 0
    with store.follow(most=100_000) as live:
        while not store.state().problem:
            for each in make.events(50):
                store.record(each)
                sent += 1
            time.sleep(0.01)
        for each in make.events(700):
            store.record(each)
            sent += 1
        assert "full" in store.state().problem
        until(lambda: store.state().lost > 0)
        seen: list[Event] = []
        while not any(each.kind == "store.failed" for each in seen):
            seen += live.take(30)

    ballast.unlink()
    assert store.flush(60)
    found = list(store.events())
    told = sum(int(each.subject.split()[0]) for each in found if each.kind == "loss")
    kept = [each for each in found if each.kind == "web.blocked"]
    assert kept[:50] == first
    assert told > 0
    assert len(kept) + told == 50 + sent
    assert store.state().problem == ""


def test_a_disk_that_is_full_from_the_start_is_survived(
    small_disk: Path, a_store: StoreMaker, make: Maker
) -> None:
    ballast = fill(small_disk)
    store, events = a_store(), make.events(20)
    for each in events:
        store.record(each)
    until(lambda: store.state().problem != "")
    assert not store.flush(0.2)

    ballast.unlink()

    assert store.flush(60)
    assert web(store) == events


def test_a_store_ends_on_a_full_disk(
    small_disk: Path, a_store: StoreMaker, make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    store = a_store()
    assert store.flush(30)
    fill(small_disk)
    while not store.state().problem:
        for each in make.events(50):
            store.record(each)
        time.sleep(0.01)
    store.close(60)

    assert "events were not recorded" in caplog.text


def test_a_read_only_disk_is_survived(tmpfs: Path, a_store: StoreMaker, make: Maker) -> None:
    store, before, during = a_store(), make.events(5), make.events(5)
    for each in before:
        store.record(each)
    assert store.flush(30)
    store.close(30)
    mounted("-o", "remount,ro", str(tmpfs))

    again = a_store()
    for each in during:
        again.record(each)
    until(lambda: again.state().problem != "")
    assert not again.flush(0.2)
    mounted("-o", "remount,rw", str(tmpfs))

    assert again.flush(60)
    assert web(again) == before + during


def test_after_a_kill_at_any_moment_the_record_is_whole(
    path: Path, a_store: StoreMaker, make: Maker
) -> None:
    dice = random.Random()
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, cwd=_REPOSITORY
        )
        try:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(dice.uniform(0, 0.4))
        finally:
            child.send_signal(signal.SIGKILL)
            rest, _ = child.communicate(timeout=30)
        # The last line may have been cut by the death.
        lines = (said[0] + rest).split(b"\n")[:-1]
        written = int(lines[-1])

        store = a_store()
        assert store.flush(30)
        store.record(make.event())
        assert store.flush(30)
        run = [int(each.subject) for each in store.events(kinds=("test",))]
        damaged = list(store.events(kinds=("store",)))
        store.close(30)
        last_run = run[len(run) - 1 - run[::-1].index(0) :] if 0 in run else run
        assert damaged == []
        assert last_run == list(range(last_run[0], last_run[-1] + 1))
        assert last_run[-1] >= written
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
