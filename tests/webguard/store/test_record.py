"""The store as the daemon uses it: events go in, come back, and are kept within bounds."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from webguard.store import inbox, schema
from webguard.store.writer import Keep

if TYPE_CHECKING:
    from pathlib import Path

    from tests.webguard.store.conftest import Maker, StoreMaker
    from webguard.model import Event
    from webguard.store.record import Store

pytestmark = pytest.mark.slow

DAY = 24 * 60 * 60 * 1_000_000_000


def kept(store: Store) -> list[Event]:
    """All of the record, once it is written."""
    assert store.flush(30)
    return list(store.events())


def fill(store: Store, events: list[Event]) -> None:
    """Record more than the queue holds."""
    for start in range(0, len(events), 500):
        for each in events[start : start + 500]:
            store.record(each)
        assert store.flush(30)


def test_what_was_recorded_is_read_back_in_its_order(a_store: StoreMaker, make: Maker) -> None:
    store, events = a_store(), make.events(700)
    for each in events:
        store.record(each)

    assert kept(store) == events


def test_a_record_outlives_its_store(a_store: StoreMaker, make: Maker) -> None:
    first, event = a_store(), make.event()
    first.record(event)
    first.close()

    second = a_store()

    assert kept(second) == [event]
    assert second.flush(30)


def test_closing_writes_what_is_waiting(a_store: StoreMaker, make: Maker) -> None:
    store, events = a_store(), make.events(800)
    for each in events:
        store.record(each)
    store.close(30)

    assert kept(a_store()) == events


def test_only_we_can_open_the_files(a_store: StoreMaker, make: Maker, path: Path) -> None:
    before = os.umask(0)
    try:
        store = a_store()
        store.record(make.event())
        kept(store)
    finally:
        os.umask(before)

    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}

    assert modes == dict.fromkeys(("events.db", "events.db-wal", "events.db-shm"), 0o600)


def test_the_file_is_a_data_base_with_a_log(a_store: StoreMaker, make: Maker, path: Path) -> None:
    store = a_store()
    store.record(make.event())
    kept(store)

    with sqlite3.connect(path) as other:
        modes = [
            other.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "auto_vacuum")
        ]
    other.close()

    assert modes == [("wal",), (2,)]


@pytest.mark.parametrize("bound", ["events", "bytes"])
def test_what_the_queue_does_not_hold_is_counted_and_told(
    a_store: StoreMaker, make: Maker, path: Path, bound: str
) -> None:
    limits = {"most_waiting": 20} if bound == "events" else {"waiting_bytes": 40_000}
    store = a_store(**limits)
    store.record(make.event())
    store.flush(30)
    with _locked(path):
        for each in make.events(600):
            store.record(each)
    found = kept(store)

    lost = [each for each in found if each.kind == "loss"]
    told = sum(int(each.subject.split()[0]) for each in lost)
    web = [each for each in found if each.kind == "web.blocked"]
    assert lost
    assert told + len(web) == 601
    assert store.state().lost == told
    assert lost[0].subject.endswith("Z")


def test_what_the_record_itself_has_to_say_is_told_beside_it(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    """Whoever prints what it records would else never print these."""
    told: list[Event] = []
    store = a_store(told=told.append, most_waiting=20)
    store.record(make.event())
    store.flush(30)
    with _locked(path):
        for each in make.events(600):
            store.record(each)
        assert not store.flush(0.1)
        for _ in range(300):  # while it lasts, and not when it can be written
            if "store.failed" in {each.kind for each in told}:
                break
            assert not store.flush(0.1)
    found = kept(store)

    own = [each for each in found if each.kind != "web.blocked"]
    assert {each.kind for each in told} == {"store.failed", "loss"}
    assert sorted(each.id for each in told) == sorted(each.id for each in own)


class _locked:  # noqa: N801 - reads as a statement
    """Another program that holds the data base."""

    def __init__(self, path: Path) -> None:
        self._other = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> None:
        self._other.execute("BEGIN EXCLUSIVE")

    def __exit__(self, *_: object) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


def test_a_locked_file_costs_nothing_but_time(a_store: StoreMaker, make: Maker, path: Path) -> None:
    store, events = a_store(), make.events(300)
    store.flush(30)
    with store.follow() as live, _locked(path):
        for each in events:
            store.record(each)
        assert not store.flush(0.1)
        seen: list[Event] = []
        while not any(each.kind == "store.failed" for each in seen):
            seen += live.take(30)
        assert "locked" in store.state().problem
    found = kept(store)

    assert [each for each in found if each.kind == "web.blocked"] == events
    assert Counter(each.kind for each in found)["store.failed"] == 1
    assert store.state().problem == ""
    assert store.state().lost == 0


def in_the_way(path: Path) -> None:
    """Put something where the record was."""
    path.unlink()
    path.mkdir()


def test_an_outage_is_told_once_and_its_events_are_shown_once(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    store = a_store()
    assert store.flush(30)
    store.record(make.event())
    assert store.flush(30)
    in_the_way(path)
    events = make.events(3)
    with store.follow() as live:
        for each in events:
            store.record(each)
        assert not store.flush(1.5)  # it tries again meanwhile
        with store.follow() as late:
            path.rmdir()
            assert store.flush(30)
            seen, seen_late = live.take(), late.take()
    found = list(store.events())

    assert [each.kind for each in seen].count("store.failed") == 1
    assert [each for each in seen if each.kind == "web.blocked"] == events
    assert seen_late == seen
    assert sorted(each.id for each in found) == sorted(each.id for each in seen)


def test_closing_after_an_outage_writes_all_that_waited(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    store, events = a_store(), make.events(1400)
    store.record(make.event())
    assert store.flush(30)
    in_the_way(path)
    for each in events:
        store.record(each)
    path.rmdir()
    store.close(30)

    wanted = {each.id for each in events}
    assert [each for each in kept(a_store()) if each.id in wanted] == events


def test_recording_does_not_wait_for_a_locked_file(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    store = a_store()
    with _locked(path):
        for each in make.events(100):
            store.record(each)
        assert store.state().waiting == 100


def test_an_id_that_is_taken_is_a_loss_and_changes_nothing(
    a_store: StoreMaker, make: Maker
) -> None:
    store, first = a_store(), make.event("http://shop.test/real")
    store.record(first)
    store.flush(30)
    store.record(make.event("http://shop.test/forged", id=first.id))
    other = make.event()
    store.record(other)
    found = kept(store)

    assert found[:2] == [first, other]
    assert found[2].outcome == "1: their ids were in the record already"


def test_one_event_that_cannot_be_kept_costs_no_other(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    before, huge, after = make.event(), make.event("u" * 2_000_000), make.event()
    for each in (before, huge, after):
        store.record(each)
    found = kept(store)

    assert found[:2] == [before, after]
    assert found[2].outcome == "1: they were too large"


def test_events_that_no_data_base_likes_are_kept(a_store: StoreMaker, make: Maker) -> None:
    store = a_store(keep=Keep(days=100_000))
    odd = [make.event(at=2**80), make.event(at=-5), make.event("\x00"), make.event("\udc80\ud800")]
    for each in odd:
        store.record(each)
    found = kept(store)

    assert [each.subject for each in found[2:]] == ["\x00", "\\x80\\ud800"]
    assert [each.at for each in found[:2]] == [2**80, -5]


def test_the_state_says_since_when(a_store: StoreMaker, make: Maker) -> None:
    first = a_store()
    first.flush(30)
    first.record(make.event())
    first.flush(30)
    since = first.state().since
    first.close(30)
    second = a_store()
    second.record(make.event())
    second.flush(30)

    assert since > 0
    assert second.state().since == since


def test_a_bug_costs_events_but_not_the_record(
    a_store: StoreMaker,
    make: Maker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = schema.row
    store = a_store()

    def broken(event: Event) -> dict[str, object]:
        if event.subject == "http://broken":
            raise ZeroDivisionError
        return real(event)

    monkeypatch.setattr("webguard.store.writer.row", broken)
    store.record(make.event("http://broken"))
    store.flush(30)
    good = make.event()
    store.record(good)
    found = kept(store)

    assert good in found
    assert [each.outcome for each in found if each.kind == "loss"] == [
        "1: the record failed, see the daemon's log"
    ]
    assert "ZeroDivisionError" in caplog.text


def test_events_of_an_impossible_time_under_one_id_cost_only_themselves(
    a_store: StoreMaker, make: Maker
) -> None:
    store, first = a_store(), make.event(at=10**400)
    store.record(first)
    store.record(make.event(id=first.id, at=10**400))
    store.flush(30)
    good = make.event()
    store.record(good)
    found = kept(store)

    assert good in found
    assert store.state().problem == ""


def test_a_bug_in_telling_of_a_loss_is_a_problem_and_passes(
    a_store: StoreMaker, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, first = a_store(), make.event()
    real = inbox._iso

    def broken(_at: int) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(inbox, "_iso", broken)
    store.record(first)
    store.record(make.event(id=first.id))
    assert not store.flush(1)
    assert "log" in store.state().problem
    monkeypatch.setattr(inbox, "_iso", real)
    found = kept(store)

    assert [each.outcome for each in found if each.kind == "loss"] == [
        "1: their ids were in the record already"
    ]
    assert store.state().problem == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_record_whose_thread_has_ended_says_so(
    a_store: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ending(_self: object) -> bool:
        raise SystemExit

    monkeypatch.setattr("webguard.store.writer.Writer._attempt", ending)
    store = a_store()
    store._thread.join(30)

    assert "has ended" in store.state().problem


def test_recording_after_the_end_is_harmless(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    store.close(30)

    store.record(make.event())
    store.close(30)


def test_many_threads_may_record(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    shares = [make.events(50) for _ in range(4)]

    def write(share: list[Event]) -> None:
        for each in share:
            store.record(each)

    threads = [threading.Thread(target=write, args=(share,)) for share in shares]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = kept(store)

    assert sorted(each.id for each in found) == sorted(e.id for share in shares for e in share)
