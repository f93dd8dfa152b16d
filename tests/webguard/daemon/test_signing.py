"""A signer that hangs is ended, and one that answers is left alone."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from webguard import host
from webguard.daemon import channel, signing
from webguard.daemon.channel import Channel
from webguard.daemon.children import Service
from webguard.daemon.signing import Signing
from webguard.model import Severity


def _tell(
    kind: str,
    *,
    severity: Severity = Severity.LOW,
    subject: str = "",
    outcome: str = "",
    remedy: str = "",
) -> None:
    raise AssertionError(f"nothing to tell: {kind} {severity} {subject} {outcome} {remedy}")


@pytest.fixture
def service() -> Iterator[tuple[Service, Channel]]:
    """A process that does nothing, and the other end of its channel."""
    ours, theirs = channel.pair()
    with ours, theirs:
        child = host.spawn(
            [sys.executable, "-c", "import time; time.sleep(60)"], name="sleeper", remedy="none"
        )
        yield Service(child, Channel(ours)), Channel(theirs)
        child.signal(signal.SIGKILL)


async def test_one_that_hangs_is_ended(
    service: tuple[Service, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "_HUNG", 0.05)
    watched, other = service
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(Signing(Path("/none"), [], _tell)._until_it_ends(watched))
        assert await watched.child.wait() == -signal.SIGKILL
        other.close()


async def test_one_that_answers_is_left_alone(
    service: tuple[Service, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "_PAUSE", 0.0)
    watched, other = service
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(Signing(Path("/none"), [], _tell)._until_it_ends(watched))
        for _ in range(5):
            assert await other.receive() == channel.Ready()
            other.send(channel.Ready())
        other.close()
    watched.child.signal(signal.SIGTERM)
    assert await watched.child.wait() == -signal.SIGTERM
