"""From a socket to its container."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from addons import identify
from addons.identify import Owners
from webguard.model import Container

ENDS = (("10.0.0.1", 4), ("10.0.0.2", 80))


class Diag:
    """A kernel that gives each client port as cgroup id."""

    def cgroup_of(self, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
        return local[1] or None


class Daemon:
    """Answers after a while, or never."""

    def __init__(self, answer: Container | None = None, *, never: bool = False) -> None:
        self.answer, self.never = answer, never
        self.asked: list[int] = []

    async def ask(self, cgroup: int) -> Container | None:
        self.asked.append(cgroup)
        if self.never:
            await asyncio.Event().wait()
        return self.answer


def owners(daemon: Daemon) -> Owners:
    diag: Any = Diag()
    return Owners(ask=daemon.ask, diag=diag)


async def test_a_known_cgroup_needs_no_question(a_container: Container) -> None:
    daemon = Daemon()
    known = owners(daemon)
    known.learn([(4, a_container)])
    assert await known.owner(*ENDS) == (4, a_container)
    assert daemon.asked == []


async def test_an_unknown_cgroup_is_asked_for_once(a_container: Container) -> None:
    daemon = Daemon(a_container)
    asking = owners(daemon)
    assert await asking.owner(*ENDS) == (4, a_container)
    assert await asking.owner(*ENDS) == (4, a_container)
    assert daemon.asked == [4]


async def test_nobodys_cgroup_is_asked_for_again(a_container: Container) -> None:
    daemon = Daemon(None)
    asking = owners(daemon)
    assert await asking.owner(*ENDS) == (4, None)
    daemon.answer = a_container  # the container's start was told in between
    assert await asking.owner(*ENDS) == (4, a_container)


async def test_a_daemon_that_does_not_answer_holds_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert identify.HOLD <= 0.5
    monkeypatch.setattr(identify, "HOLD", 0.02)
    async with asyncio.timeout(10):
        assert await owners(Daemon(never=True)).owner(*ENDS) == (4, None)


async def test_a_socket_that_is_gone_is_nobodys() -> None:
    daemon = Daemon()
    assert await owners(daemon).owner(("10.0.0.1", 0), ENDS[1]) == (None, None)
    assert daemon.asked == []


async def test_a_run_that_ended_is_forgotten_and_its_successor_is_not(
    a_container: Container,
) -> None:
    again = replace(a_container, started=8)
    known = owners(Daemon())
    known.learn([(3, a_container), (4, a_container), (5, again)])
    known.forget(a_container)
    assert await known.owner(*ENDS) == (4, None)
    assert await known.owner(("10.0.0.1", 5), ENDS[1]) == (5, again)


async def test_what_is_remembered_is_bounded_and_the_latest(
    a_container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "_REMEMBERED", 3)
    known = owners(Daemon())
    known.learn((each, a_container) for each in range(1, 10))
    assert await known.owner(("10.0.0.1", 9), ENDS[1]) == (9, a_container)
    assert await known.owner(("10.0.0.1", 1), ENDS[1]) == (1, None)
    assert len(known._known) == 3


async def test_a_socket_that_was_looked_at_may_be_gone_afterwards(a_container: Container) -> None:
    short = owners(Daemon(a_container))
    short.look(*ENDS)
    short._diag = SimpleNamespace(cgroup_of=lambda local, remote: None)  # type: ignore[assignment]
    assert await short.owner(*ENDS) == (4, a_container)
    assert await short.owner(*ENDS) == (None, None)  # the next one with these ends is another


def test_what_was_looked_at_and_never_asked_for_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify, "_REMEMBERED", 3)
    looking = owners(Daemon())
    for port in range(10):
        looking.look(("10.0.0.1", port), ENDS[1])
    assert len(looking._looked) == 3
