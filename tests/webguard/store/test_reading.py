"""Reading the record: what is asked for, in order, and live without a gap."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from webguard.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.webguard.store.conftest import Maker, StoreMaker
    from webguard.model import Event
    from webguard.store.record import Store

pytestmark = pytest.mark.slow

SHOP, BANK = "ab" * 32, "cd" * 32


def numbered(store: Store, make: Maker, count: int) -> list[Event]:
    events = make.events(count)
    for each in events:
        store.record(each)
    assert store.flush(30)
    return events


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_pages_do_not_show(a_store: StoreMaker, make: Maker, count: int) -> None:
    store = a_store()
    store.flush(30)
    store.record(make.event("first"))
    events = numbered(store, make, count)

    assert list(store.events())[1:] == events


@pytest.mark.parametrize("limit", [0, 1, 2, 300, 600])
def test_a_limit_leaves_the_newest_oldest_first(
    a_store: StoreMaker, make: Maker, limit: int
) -> None:
    store = a_store()
    events = numbered(store, make, 400)

    assert list(store.events(limit=limit)) == events[max(0, 400 - limit) :]


@pytest.mark.parametrize("limit", [None, 1, 300], ids=["all", "one", "pages"])
def test_after_an_event_come_the_next_ones(
    a_store: StoreMaker, make: Maker, limit: int | None
) -> None:
    store = a_store()
    events = numbered(store, make, 400)

    assert list(store.events(after=events[9].id, limit=limit)) == events[10:][:limit]


def test_an_event_that_arrives_late_is_not_passed_over(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    late = make.event()
    newer = make.event()
    store.record(newer)
    store.record(late)
    store.flush(30)

    assert list(store.events(after=newer.id)) == [late]


def test_after_an_event_that_is_gone_comes_everything(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    events = numbered(store, make, 3)

    assert list(store.events(after="no such id")) == events


@pytest.mark.parametrize(
    ("kinds", "container", "found"),
    [
        pytest.param((), "", "abcde", id="all"),
        pytest.param(("web.blocked",), "", "ab", id="kind"),
        pytest.param(("web",), "", "abc", id="family"),
        pytest.param(("web.blocked", "worker"), "", "abe", id="several"),
        pytest.param(("we",), "", "", id="no half of a family"),
        pytest.param(("WEB",), "", "", id="case"),
        pytest.param(("web_",), "", "", id="no pattern"),
        pytest.param((), "shop", "ac", id="name"),
        pytest.param((), SHOP, "ac", id="id"),
        pytest.param((), SHOP[:12], "ac", id="short id"),
        pytest.param((), SHOP[:11], "", id="too short an id"),
        pytest.param((), "%" * 12, "", id="no pattern in an id"),
        pytest.param(("web.blocked",), "bank", "b", id="both"),
    ],
)
def test_a_choice_is_the_same_of_the_record_and_of_what_happens(
    a_store: StoreMaker, make: Maker, kinds: tuple[str, ...], container: str, found: str
) -> None:
    store = a_store()
    shop, bank = make.container("shop", SHOP), make.container("bank", BANK)
    events = [
        make.event("a", kind="web.blocked", container=shop),
        make.event("b", kind="web.blocked", container=bank),
        make.event("c", kind="web.passed", container=shop),
        make.event("d", kind="webs.other", container=None),
        make.event("e", kind="worker.ended", container=None),
    ]
    with store.follow(kinds=kinds, container=container) as live:
        for each in events:
            store.record(each)
        assert store.flush(30)
        happened = live.take()
    recorded = list(store.events(kinds=kinds, container=container))

    assert "".join(each.subject for each in recorded) == found
    assert "".join(each.subject for each in happened) == found


def test_a_limit_counts_what_was_chosen(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    for number in range(10):
        store.record(make.event(str(number), kind="web.passed" if number % 2 else "tls.no_leaf"))
    store.flush(30)

    found = store.events(kinds=("tls",), limit=2)

    assert [each.subject for each in found] == ["6", "8"]


def test_a_reader_that_stops_in_the_middle_does_not_hold_the_log_open(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    store = a_store()
    numbered(store, make, 600)
    reading = store.events()
    next(reading)
    numbered(store, make, 10)

    with sqlite3.connect(path) as other:
        busy, log, written = other.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    other.close()

    assert (busy, log) == (0, written)
    assert len(list(reading)) == 599


def test_a_row_that_is_spoilt_hides_no_other(a_store: StoreMaker, make: Maker, path: Path) -> None:
    store = a_store()
    first, spoilt, last = numbered(store, make, 3)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE events SET event = 'x' WHERE id = ?", (spoilt.id,))
    other.close()

    found = list(store.events())

    assert [found[0], found[2]] == [first, last]
    assert (found[1].id, found[1].kind) == (spoilt.id, "loss")


def test_a_record_that_is_not_there_cannot_be_read(a_store: StoreMaker, path: Path) -> None:
    store = a_store()
    store.close(30)
    path.unlink()

    with pytest.raises(HostError, match="read the record"):
        list(store.events())


def test_a_reader_cannot_write(a_store: StoreMaker, make: Maker, path: Path) -> None:
    from sqlalchemy.exc import OperationalError

    from webguard.store.database import reading

    numbered(a_store(), make, 1)

    with reading(path).connect() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.exec_driver_sql("DELETE FROM events")


def test_history_and_what_follows_join_without_gap_or_double(
    a_store: StoreMaker, make: Maker
) -> None:
    store = a_store()
    before = numbered(store, make, 300)
    unwritten = make.events(200)
    for each in unwritten:
        store.record(each)

    with store.follow() as live:
        after = numbered(store, make, 300)
        seen = [*store.events(until=live.start), *live.take(most=10_000)]

    assert seen == before + unwritten + after


def test_history_of_an_earlier_run_is_joined_too(a_store: StoreMaker, make: Maker) -> None:
    first = a_store()
    before = numbered(first, make, 10)
    first.close(30)
    second = a_store()

    with second.follow() as live:
        after = numbered(second, make, 10)
        seen = [*second.events(until=live.start), *live.take()]

    assert seen == before + after


def test_history_is_joined_when_the_record_could_not_be_opened_at_first(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    first = a_store()
    before = numbered(first, make, 10)
    first.close(30)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    second = a_store()
    other.execute("ROLLBACK")
    other.close()
    while not second.state().since:
        second.flush(0)

    with second.follow() as live:
        assert [*second.events(until=live.start)][:10] == before


def test_a_slow_follower_loses_and_is_told_and_the_others_do_not(
    a_store: StoreMaker, make: Maker
) -> None:
    store = a_store()
    with store.follow(most=5) as slow, store.follow() as quick:
        events = numbered(store, make, 20)

        *seen, loss = slow.take()
        assert seen == events[:5]
        assert loss.kind == "loss"
        assert loss.subject.startswith("15 events were not shown here")
        assert quick.take() == events
    assert list(store.events()) == events
    assert store.state().lost == 0


def test_a_follower_that_left_is_told_nothing(a_store: StoreMaker, make: Maker) -> None:
    store = a_store()
    with store.follow() as live:
        pass
    numbered(store, make, 1)

    assert live.take() == []


async def test_a_follower_wakes_an_event_loop(a_store: StoreMaker, make: Maker) -> None:
    store, ready = a_store(), asyncio.Event()
    loop = asyncio.get_running_loop()
    with store.follow(wake=lambda: loop.call_soon_threadsafe(ready.set)) as live:
        for each in (make.event("1"), make.event("2")):
            store.record(each)
            async with asyncio.timeout(30):
                await ready.wait()
            ready.clear()
            assert live.take() == [each]


def test_a_follower_whose_loop_has_gone_is_forgotten(a_store: StoreMaker, make: Maker) -> None:
    store, loop = a_store(), asyncio.new_event_loop()
    live = store.follow(wake=lambda: loop.call_soon_threadsafe(print))
    loop.close()
    numbered(store, make, 1)
    live.take()
    later = numbered(store, make, 2)

    assert live.take() == []
    assert list(store.events())[-2:] == later
