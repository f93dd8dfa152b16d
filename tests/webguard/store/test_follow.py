"""Following, event by event: whoever waits is woken, whatever it did a moment before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, override

from webguard.store.follow import Follower
from webguard.store.select import Choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.webguard.store.conftest import Maker


class Meanwhile(str):
    """Text that does something when it is measured, that is: while its event is put."""

    deed: Callable[[], object]

    @override
    def __len__(self) -> int:
        self.deed()
        return super().__len__()


def a_follower(make: Maker, wake: Callable[[], object]) -> Follower:
    return Follower(
        Choice(), start=0, stamp=make.stamp, most=8, wake=wake, leave=lambda _follower: None
    )


def test_a_reader_that_emptied_the_box_while_an_event_came_is_woken(make: Maker) -> None:
    woken: list[str] = []
    live = a_follower(make, lambda: woken.append("once"))
    first, second = make.events(2)
    live.offer(first)
    assert woken == ["once"]

    def read_all() -> None:
        """What a reader does before it waits."""
        while live.take():
            pass

    subject = Meanwhile(second.subject)
    subject.deed = read_all
    live.offer(replace(second, subject=subject))

    assert woken == ["once", "once"]
    assert [each.id for each in live.take()] == [second.id]


def test_a_reader_that_is_behind_is_woken_once(make: Maker) -> None:
    woken: list[str] = []
    live = a_follower(make, lambda: woken.append("once"))
    events = make.events(3)
    for each in events:
        live.offer(each)

    assert woken == ["once"]
    assert live.take() == events


def test_a_reader_is_woken_for_what_it_lost(make: Maker) -> None:
    woken: list[str] = []
    live = a_follower(make, lambda: woken.append("once"))
    live.offer(make.event(outcome="x" * (9 * 1024 * 1024)))

    assert woken == ["once"]
    assert [each.kind for each in live.take()] == ["loss"]
