"""A worker's links: to the signer, which certifies, and to the daemon, which knows and records."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from addons.identify import HOLD, Owners
from addons.listener import Probe, WebguardInstance
from addons.peers import Peers
from addons.sockdiag import Endpoint
from webguard.daemon import channel
from webguard.daemon.channel import Channel
from webguard.daemon.selftest import TARGETS
from webguard.errors import HostError
from webguard.model import Container, Event

log = logging.getLogger(__name__)

_COUNT_EVERY = 1.0
_MINT_TIMEOUT = 5.0
_TRUSTED_EVERY = 1.0
_CONTAINERS = 10_000

type Configured = Callable[[int, tuple[int, ...]], Awaitable[str]]
"""Apply a generation from descriptors (settings, rules, roots); return what went wrong, or ""."""

type Drained = Callable[[float], Awaitable[None]]
"""Stop accepting, and return when what is open has ended, after so many seconds at most."""


class Signer:
    """The worker's side of `Mint`: one question at a time in flight per number."""

    def __init__(self, end: Channel) -> None:
        self._end = end
        self._waiting: dict[int, asyncio.Future[channel.Minted]] = {}
        # A predecessor's answers may still be in the pipe: start at a number it never used.
        self._number = int.from_bytes(os.urandom(6))

    async def mint(self, block_page: bool, names: tuple[str, ...], public_key: bytes) -> bytes:
        """Return a PEM chain. Raises `HostError` when the signer refuses or does not answer."""
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            asked = channel.MintRequest(
                number=number, names=names, public_key=public_key, block_page=block_page
            )
            if not self._end.send(asked):
                raise HostError("ask the signer", "it does not read", "see webguard status")
            async with asyncio.timeout(_MINT_TIMEOUT):
                said = await answer
        except TimeoutError as error:
            raise HostError("ask the signer", "no answer", "see webguard status") from error
        finally:
            del self._waiting[number]
        if said.refused:
            raise HostError("ask the signer", said.refused, "see the signer's log")
        return bytes(said.chain)

    async def listen(self) -> None:
        """Hand answers to those who wait for them, for as long as there is a signer."""
        while (message := await self._end.receive()) is not None:
            if isinstance(message, channel.Minted):
                waiting = self._waiting.get(message.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)


class Daemon:
    """The worker's side of its channel to the daemon."""

    def __init__(self, end: Channel) -> None:
        self._end = end
        self._lost = 0
        self._asked: dict[int, asyncio.Future[Container | None]] = {}
        self._trusted: dict[tuple[str, str, int], float] = {}

    def record(self, event: Event) -> None:
        """Send an event. What cannot be sent is counted, and told as soon as possible."""
        if self._lost and self._end.send(channel.Lost(count=self._lost)):
            self._lost = 0
        if self._end.send(channel.Happened(event=event)):
            return
        # Too large, perhaps, by what others choose the size of: it is told all the same.
        bare = event.container and replace(event.container, labels=())
        if not self._end.send(channel.Happened(event=replace(event, container=bare))):
            self._lost += 1

    def trusted(self, container: Container) -> None:
        """Tell, once a second at most, that a client in this container accepted a leaf of ours."""
        now = time.monotonic()
        if now - self._trusted.get(container.key, 0.0) < _TRUSTED_EVERY:
            return
        if len(self._trusted) > _CONTAINERS:
            self._trusted.clear()
        seen = channel.Handshake(
            runtime=container.runtime, id=container.id, started=container.started
        )
        if self._end.send(seen):
            self._trusted[container.key] = now

    def probed(self, cgroup: int, client: Endpoint, wanted: Endpoint, *, probe: int) -> Probe:
        """Say whose self-test a connection is, and report it if it is ours."""
        if cgroup != probe:
            return Probe.ANOTHERS if wanted[0] in TARGETS.values() else Probe.NOBODYS
        self._end.send(channel.Probed(port=client[1], host=client[0]))
        return Probe.OURS

    async def whose(self, cgroup: int) -> Container | None:
        """Ask whose cgroup this is. Connections that ask for the same one share the question."""
        if (asked := self._asked.get(cgroup)) is None:
            asked = self._asked[cgroup] = asyncio.get_running_loop().create_future()
            asked.add_done_callback(lambda _: self._asked.pop(cgroup, None))
            if not self._end.send(channel.Resolve(cgroup=cgroup)):
                asked.set_result(None)
            # An answer may be lost on its way; the next connection then asks again.
            asyncio.get_running_loop().call_later(HOLD, _give_up, asked)
        return await asyncio.shield(asked)

    async def listen(
        self,
        owners: Owners,
        configured: Configured,
        drained: Drained,
        cut: Callable[[], None],
    ) -> None:
        """Take what the daemon says until it is gone, or until we are drained."""
        async with asyncio.TaskGroup() as tasks:
            while (received := await self._end.receive_with()) is not None:
                message, descriptors = received
                if isinstance(message, channel.Drain):
                    await drained(message.seconds)
                    return
                if isinstance(message, channel.Configure):
                    # Long lists take many seconds, and other answers are waited for.
                    tasks.create_task(self._configure(message, descriptors, configured))
                    continue
                for each in descriptors:
                    os.close(each)
                self._take(message, owners, cut)

    async def _configure(
        self, message: channel.Configure, descriptors: tuple[int, ...], configured: Configured
    ) -> None:
        try:
            problem = (await configured(message.generation, descriptors))[:4000]
        finally:
            for each in descriptors:
                os.close(each)
        self._end.send(channel.Applied(generation=message.generation, problem=problem))

    def _take(
        self,
        message: channel.Message,
        owners: Owners,
        cut: Callable[[], None],
    ) -> None:
        match message:
            case channel.Cut():
                cut()
            case channel.Known(gone=True):
                owners.forget(message.container)
            case channel.Known():
                owners.learn((each, message.container) for each in message.cgroups)
            case channel.Resolved():
                asked = self._asked.get(message.cgroup)
                if asked is not None and not asked.done():
                    asked.set_result(message.container)
            case _:
                log.warning("the daemon sent %s, which is not for a worker", message.type)

    async def count(self, instance: WebguardInstance, peers: Peers) -> None:
        """Report the counters every second: a worker that hangs is noticed by its silence."""
        while True:
            counters = instance.counters
            self._end.send(
                channel.Count(
                    served=counters.served,
                    direct=counters.direct,
                    probes=counters.probes,
                    open=len(peers),
                )
            )
            await asyncio.sleep(_COUNT_EVERY)

    def say(self, message: channel.Message) -> None:
        """Send a message about ourselves."""
        self._end.send(message)


def _give_up(asked: asyncio.Future[Container | None]) -> None:
    if not asked.done():
        asked.set_result(None)
