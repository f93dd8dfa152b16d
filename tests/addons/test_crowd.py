"""One container's connections never take the room of all the others."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from addons.crowd import Crowd
from certs.authority import Authority
from tests.addons.rig import PATIENCE, Rig, answers, get, response, running
from tests.system.host import pki
from webguard.daemon.clock import stamp
from webguard.model import Container, Event

GREEDY = Container(runtime="docker", id="a" * 64, started=1, pid=1)
OTHER = Container(runtime="docker", id="b" * 64, started=1, pid=1)
EIGHT = 256 + 8 * 3  # descriptors of which there are enough for eight connections


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def crowd(told: list[Event]) -> Crowd:
    return Crowd(descriptors=EIGHT, record=told.append, stamp=stamp)


def test_one_container_gets_its_share_and_no_more(crowd: Crowd, told: list[Event]) -> None:
    entered = [crowd.enter(number, GREEDY, "10.0.0.1:80") for number in range(5)]

    assert entered == [True, True, False, False, False]
    assert crowd.enter(9, OTHER, "10.0.0.1:80")
    (event,) = told
    assert (event.kind, event.container, event.subject) == ("web.failed", GREEDY, "10.0.0.1:80")
    assert event.outcome.startswith("refused: 2 of 2")


def test_who_has_left_makes_room(crowd: Crowd) -> None:
    assert crowd.enter(1, GREEDY, "x")
    assert crowd.enter(1, GREEDY, "x")
    crowd.leave(1, GREEDY)
    assert crowd.enter(1, GREEDY, "x")
    assert not crowd.enter(1, GREEDY, "x")


def test_all_together_never_take_more_than_there_is(crowd: Crowd) -> None:
    entered = [crowd.enter(number, None, "x") for number in range(20)]
    assert entered.count(True) == crowd.most == 8
    for number in range(8):
        crowd.leave(number, None)
    assert crowd.enter(30, None, "x")


def test_few_descriptors_are_still_room_for_one() -> None:
    assert Crowd(descriptors=10, record=lambda _: None, stamp=stamp).enter(1, None, "x")


@pytest.fixture
async def small(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> AsyncIterator[Rig]:
    async with running(monkeypatch, authority, origins, descriptors=EIGHT) as rig:
        yield rig


async def test_over_the_bound_is_reset_and_the_others_are_served(small: Rig) -> None:
    await small.serve(answers(response()))
    small.container = GREEDY
    for _ in range(2):
        await small.connect()
    async with asyncio.timeout(PATIENCE):
        while small.instance.counters.served < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await small.ask(get()) == b""  # reset
    small.container = OTHER

    assert (await small.ask(get())).endswith(b"fine")
    assert (await small.event("web.failed")).container == GREEDY
