"""What the store keeps, and when it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.webguard.store.test_record import DAY, fill, kept
from webguard.store import writer
from webguard.store.writer import Keep

if TYPE_CHECKING:
    from pathlib import Path

    from tests.webguard.store.conftest import Maker, StoreMaker


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention looks at every batch, and not once a minute."""
    monkeypatch.setattr(writer, "_PRUNE", 0)


@pytest.mark.usefixtures("always")
def test_old_events_go(a_store: StoreMaker, make: Maker) -> None:
    store = a_store(keep=Keep(days=7))
    _, now = make.stamp()
    old = [make.event(at=now - 8 * DAY) for _ in range(600)]
    new = [make.event(at=now - 6 * DAY) for _ in range(3)]
    fill(store, old + new)
    store.close(30)

    reopened = a_store(keep=Keep(days=7))
    reopened.record(make.event())

    assert kept(reopened)[:-1] == new


@pytest.mark.usefixtures("always")
def test_an_event_of_the_future_does_not_stop_retention(a_store: StoreMaker, make: Maker) -> None:
    store = a_store(keep=Keep(days=7))
    _, now = make.stamp()
    fill(store, [make.event(at=2**62), make.event(at=now - 8 * DAY), make.event()])
    store.close(30)

    assert len(kept(a_store())) == 2


@pytest.mark.usefixtures("always")
def test_numbers_are_never_used_twice(a_store: StoreMaker, make: Maker, path: Path) -> None:
    """Or a follower that joins after everything has expired would take new events for old ones."""
    store = a_store(keep=Keep(days=1))
    _, now = make.stamp()
    fill(store, [make.event(at=now - 2 * DAY) for _ in range(5)])
    store.close(30)
    again = a_store(keep=Keep(days=1))
    again.record(make.event())
    kept(again)

    with again.follow() as live:
        assert live.start == 6


def test_looking_after_every_batch_would_double_its_cost(a_store: StoreMaker, make: Maker) -> None:
    store = a_store(keep=Keep(days=7))
    _, now = make.stamp()
    fill(store, [make.event()])  # what was old at the start went with this one
    old = make.event(at=now - 8 * DAY)
    fill(store, [old])

    fill(store, [make.event()])

    assert old in kept(store)


def test_what_is_too_large_does_not_wait_for_the_next_look(
    a_store: StoreMaker, make: Maker, path: Path
) -> None:
    keep = Keep(bytes=256 * 1024)
    store = a_store(keep=keep)
    fill(store, [make.event()])
    fill(store, make.events(1500))
    store.close(30)

    assert path.stat().st_size <= keep.bytes
