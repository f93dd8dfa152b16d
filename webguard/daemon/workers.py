"""The workers: started, listened to, restarted. What they say is only believed where it may be."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from webguard.daemon import channel
from webguard.daemon.channel import Channel, Message
from webguard.daemon.children import START, Inherited, Service, start_worker
from webguard.daemon.protection import Protection
from webguard.errors import HostError
from webguard.model import Container, Event, Severity

log = logging.getLogger(__name__)

# After so many restarts in a row the pause stays at the last; a minute of life ends the row.
_BACK_OFF = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY = 60.0
_STOP_GRACE = 2.0
_APPLY = 120.0
"""Seconds for a worker to load rules and lists while it serves."""
_BUSY = 60.0
"""Seconds for which one that does so may say nothing."""
# Questions of one worker under way at once; a worker that asks more is answered "nobody".
_QUESTIONS = 64


def pause(failures: int) -> float:
    """Return how long to wait after so many failures in a row, of which there was at least one."""
    return _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]


class Tell(Protocol):
    """Record an event of the daemon's own."""

    def __call__(  # noqa: D102 - the class says it
        self,
        kind: str,
        *,
        severity: Severity = ...,
        subject: str = ...,
        outcome: str = ...,
        remedy: str = ...,
    ) -> None: ...


@dataclass(slots=True, kw_only=True)
class Ports:
    """What the workers' messages lead to."""

    record: Callable[[Event], None]
    tell: Tell
    whose: Callable[[int], Awaitable[Container | None]]
    containers: Callable[[], tuple[Container, ...]]
    probed: Callable[[int], None]
    trusted: Callable[[tuple[str, str, int]], None]


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker, over its restarts."""

    number: int
    signer: socket.socket
    scanners: Sequence[socket.socket] = ()
    inherited: Inherited
    ports: Ports
    protection: Protection
    service: Service | None = None
    counted: channel.Count = field(
        default_factory=lambda: channel.Count(served=0, direct=0, probes=0, open=0)
    )
    _stopping: bool = False
    _serves: bool = False
    _heard: float = 0.0
    _applying: asyncio.Future[channel.Applied | None] | None = None
    _ended_by_itself: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Start the process and wait until it serves. Raises `HostError` with its reason."""
        self.service = start_worker(self.number, self.inherited, self.signer, self.scanners)
        await self.service.ready()
        self._is_serving()

    def _is_serving(self) -> None:
        self._serves = True
        self._heard = time.monotonic()
        for container in self.ports.containers():
            self.learn(container, gone=False)

    def learn(self, container: Container, *, gone: bool) -> None:
        """Tell it about a container. What it does not hear it asks for later."""
        if self.service is None:
            return
        known = channel.Known(cgroups=container.cgroups, container=container, gone=gone)
        if not self.service.channel.send(known):
            log.info("worker %d was not told of container %s", self.number, container.id)

    async def configure(self, inherited: Inherited, generation: int) -> None:
        """Have it work by other settings; return when every request is judged by them.

        Raises `HostError` with the reason; the process then still works by the
        old ones, and a successor of it would too.
        """
        if self.service is None or not self._serves:
            self.inherited = inherited
            if self.service is not None:
                # It starts with the old ones, and would soon judge by them. The next one has these.
                self.service.child.signal(signal.SIGKILL)
            return
        self._applying = asyncio.get_running_loop().create_future()
        descriptors = (inherited.settings, inherited.rules, inherited.roots)
        message = channel.Configure(generation=generation)
        try:
            if not self.service.channel.send(message, descriptors):
                raise self._not_applied("it does not read")
            async with asyncio.timeout(_APPLY):
                applied = await self._applying
        except TimeoutError as error:
            # It may come round, and work by settings that nobody thinks are in force.
            self.kill()
            raise self._not_applied(f"no answer within {_APPLY:g} s") from error
        finally:
            self._applying = None
            self._heard = time.monotonic()
        if applied is None:
            self.inherited = inherited  # it has ended, and the next one starts with these
            return
        if applied.problem or applied.generation != generation:
            raise self._not_applied(applied.problem or "it answered for another generation")
        self.inherited = inherited

    def _not_applied(self, why: str) -> HostError:
        return HostError(
            f"configure webguard-proxy {self.number}", why, "the old settings stay in force"
        )

    def cut(self) -> None:
        """Have it end every connection now."""
        if self.service is not None:
            self.service.channel.send(channel.Cut())

    async def drain(self, seconds: float) -> None:
        """Have it accept nothing more and finish what is open. `keep` must run meanwhile."""
        self._stopping = True
        if self.service is None:
            return
        self.service.channel.send(channel.Drain(seconds=seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + _STOP_GRACE):
                await self._ended_by_itself.wait()

    def silent_for(self) -> float:
        """Return for how many seconds it should have reported and did not."""
        silence = time.monotonic() - self._heard if self._serves else 0.0
        return silence if self._applying is None else max(0.0, silence - _BUSY)

    def kill(self) -> None:
        """End a process that hangs; `keep` starts its successor.

        One that is still starting is left alone: on a busy host that takes its time.
        """
        if self.service is not None and self._serves:
            self.service.child.signal(signal.SIGKILL)

    async def keep(self) -> None:
        """Listen to the process; whenever it ends, start another, ever more slowly."""
        failures = 0
        while True:
            began = time.monotonic()
            if self.service is not None:
                if not self._serves:  # whoever waited for it was cancelled (`first_selftest`)
                    asyncio.get_running_loop().call_later(START, self._overdue, self.service)
                await self._listen(self.service)
                code = await self.service.child.wait()
                self._serves = False
                self.service.channel.close()
                self.service = None
                self._answer(None)
                if self._stopping:
                    self._ended_by_itself.set()
                    return
                self._ended(f"exit code {code}")
            failures = 1 if time.monotonic() - began > _STEADY else failures + 1
            await asyncio.sleep(pause(failures))
            try:
                await self.start()
            except OSError as error:
                self._ended(str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again and told
                await self.stop()
                self._ended(str(error))

    def _overdue(self, service: Service) -> None:
        """End a process that did not come to serve; `keep` starts its successor."""
        if service is self.service and not self._serves:
            service.child.signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End the process."""
        if self.service is not None:
            service, self.service = self.service, None
            await service.stop(_STOP_GRACE)

    def _ended(self, why: str) -> None:
        self.ports.tell(
            "worker.ended",
            severity=Severity.HIGH,
            subject=f"webguard-proxy {self.number}",
            outcome=why,
            remedy="it is restarted; if this repeats, see the log",
        )

    async def _listen(self, service: Service) -> None:
        """Take its messages until it is gone."""
        asked = asyncio.Semaphore(_QUESTIONS)
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    message = await service.channel.receive()
                except ValueError as error:
                    log.warning("webguard-proxy %d: %s", self.number, error)
                    continue
                if message is None:
                    return
                if isinstance(message, channel.Resolve):
                    if asked.locked():
                        service.channel.send(
                            channel.Resolved(cgroup=message.cgroup, container=None)
                        )
                        continue
                    tasks.create_task(self._resolve(service.channel, message.cgroup, asked))
                    continue
                try:
                    self._take(message)
                except Exception:  # nothing that a worker says may end the daemon
                    log.exception("webguard-proxy %d: %s", self.number, message.type)

    async def _resolve(self, end: Channel, cgroup: int, asked: asyncio.Semaphore) -> None:
        async with asked:
            try:
                container = await self.ports.whose(cgroup)
            except Exception as error:  # noqa: BLE001 - a question must not end the daemon
                log.warning("webguard-proxy %d: whose is cgroup %d? %r", self.number, cgroup, error)
                container = None
            end.send(channel.Resolved(cgroup=cgroup, container=container))

    def _answer(self, applied: channel.Applied | None) -> None:
        if self._applying is not None and not self._applying.done():
            self._applying.set_result(applied)

    def _serving(self, said: channel.Ready | channel.Count) -> None:
        if not self._serves:
            self._is_serving()
        if isinstance(said, channel.Count):
            self.counted = said
            self._heard = time.monotonic()
            self.protection.reported[self.number] = time.monotonic()

    def _take(self, message: Message) -> None:
        match message:
            case channel.Happened():
                self.ports.record(message.event)
            # Either: a `Ready` can be lost with the task that took it.
            case channel.Ready() | channel.Count():
                self._serving(message)
            case channel.Applied():
                self._answer(message)
            case channel.Probed():
                self.ports.probed(message.port)
            case channel.Handshake():
                self.ports.trusted((message.runtime, message.id, message.started))
            case channel.Lost():
                self.ports.tell(
                    "loss",
                    severity=Severity.HIGH,
                    subject=f"{message.count} events of webguard-proxy {self.number}",
                    outcome="lost",
                    remedy="the daemon is too busy, or its output is not read",
                )
            case _:
                log.warning("webguard-proxy %d sent %s", self.number, message.type)
