"""A worker's side of its channel to the daemon: all of it arrives, and nothing waits for it."""

import asyncio
import os

import pytest

from addons.identify import Owners
from addons.sockdiag import SockDiag
from webguard.daemon import channel
from webguard.daemon.channel import Channel
from webguard.daemon.clock import stamp
from webguard.daemon.links import Daemon
from webguard.model import Container, Event, Severity


async def never_drained(_seconds: float) -> None:
    raise AssertionError("nobody asked for it")


async def test_while_it_applies_settings_everything_else_goes_on() -> None:
    ours, theirs = channel.pair()
    link, daemon = Daemon(Channel(ours)), Channel(theirs)
    was_cut, may_go_on, given = asyncio.Event(), asyncio.Event(), list[int]()

    async def configured(generation: int, descriptors: tuple[int, ...]) -> str:
        given.extend(descriptors)
        await may_go_on.wait()
        os.fstat(descriptors[0])  # it is closed only when they are read
        return f"no to {generation}"

    diag = SockDiag()
    owners = Owners(ask=link.whose, diag=diag)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(link.listen(owners, configured, never_drained, was_cut.set))
        nothing = os.open(os.devnull, os.O_RDONLY)
        assert daemon.send(channel.Configure(generation=3), [nothing])
        assert daemon.send(channel.Cut())
        await was_cut.wait()
        may_go_on.set()
        assert await daemon.receive() == channel.Applied(generation=3, problem="no to 3")
        theirs.close()
    os.close(nothing)
    ours.close()
    diag.close()
    assert given
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given[0])


async def test_an_event_of_a_container_with_huge_labels_is_told_without_them() -> None:
    ours, theirs = channel.pair()
    labels = tuple((f"key {number}", "v" * 1024) for number in range(200))
    container = Container(runtime="docker", id="a" * 64, started=1, pid=1, labels=labels)
    event_id, at = stamp()
    event = Event(id=event_id, at=at, kind="x", severity=Severity.LOW, container=container)

    Daemon(Channel(ours)).record(event)

    told = await Channel(theirs).receive()
    assert isinstance(told, channel.Happened)
    assert told.event.id == event_id
    assert told.event.container is not None
    assert (told.event.container.id, told.event.container.labels) == (container.id, ())
    ours.close()
    theirs.close()
