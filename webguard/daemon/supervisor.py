"""webguardd: start everything in order, watch over it, stop it in order.

The order is the safety: nothing is redirected before a worker has been seen to
answer, and nothing of ours is stopped before the redirect is gone. Whatever
fails on the way up takes down what was already there.

If this process is killed, the kernel removes the redirect with the socket that
owns it, the workers die by their death signal, and the sentry tidies up.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from certs import publish
from certs.certificate import OurCertificate
from netiso.cgroups import OwnCgroup, find_root
from webguard.daemon import channel
from webguard.daemon.children import Inherited, sealed
from webguard.daemon.clock import stamp
from webguard.daemon.crew import Start, crew
from webguard.daemon.handover import Inheritance, Offer
from webguard.daemon.health import Health
from webguard.daemon.interception import Interception
from webguard.daemon.isolating import Isolating
from webguard.daemon.listen import bind
from webguard.daemon.lock import only_one
from webguard.daemon.material import Material
from webguard.daemon.notify import ending, notify
from webguard.daemon.paths import Paths
from webguard.daemon.protection import Protection
from webguard.daemon.scanners import Scanners
from webguard.daemon.selftest import SelfTest
from webguard.daemon.signing import Signing
from webguard.daemon.workers import Ports, Worker
from webguard.errors import ConfigError, HostError, RefusedError
from webguard.model import Container, Event, Severity
from webguard.policy.config import Config
from webguard.policy.show import why_off
from webguard.store.lines import Lines
from webguard.store.record import Store

_SETTLE = 5.0
_PATIENCE = 30.0
"""Seconds for a successor to be protecting: nothing is lost while it tries."""
_LOOK = 0.1

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """One daemon. `run` returns when it is told to stop and everything is down again."""

    material: Material
    paths: Paths
    lines: Lines
    store: Store
    predecessor: Inheritance | None = None
    trusted: dict[tuple[str, str, int], int] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    protection: Protection = field(init=False)
    interception: Interception = field(init=False)
    authority: OurCertificate = field(init=False)
    signing: Signing = field(init=False)
    scanners: Scanners = field(init=False)
    isolating: Isolating = field(init=False)
    selftest: SelfTest = field(init=False)
    own_cgroup: OwnCgroup = field(init=False)
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _listen: list[socket.socket] = field(default_factory=list)
    _lock: int = -1
    _offer: Offer = field(init=False)
    _removable: list[Path] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _watching: list[asyncio.Task[None]] = field(default_factory=list)
    _anothers: bool = False  # the instance's place is a successor's, or still a predecessor's

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.material.config

    async def run(
        self,
        control: Callable[["Supervisor"], AbstractAsyncContextManager[None]],
        ready: Callable[["Supervisor"], None],
    ) -> None:
        """Protect until we are to end. `control` serves the socket; `ready` is told once.

        Raises `HostError`, `ConfigError` or `RefusedError` when protection cannot begin.
        """
        for number in ending():
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        off = why_off(self.material.policy)
        self.protection = Protection(expected_workers=self.config.web.workers, switched_off=off)
        async with AsyncExitStack() as stack:
            if not await self._started(stack):
                return
            start = await stack.enter_async_context(crew())
            self._start_tasks(start)
            if self.predecessor is not None and not await self._fit_to_succeed():
                return
            self._offer = Offer(self.paths, self._gift, self._taken_over)
            await stack.enter_async_context(control(self))
            await stack.enter_async_context(self._offer)
            self.tell("daemon.started", subject=self.config.instance)
            if self.predecessor is not None:
                start(self._succeed(self.predecessor))
            await self._settled(_SETTLE)
            ready(self)
            notify("READY=1", "STATUS=protecting")
            await self._stopping.wait()
            notify("STOPPING=1")
            self.tell("daemon.stopping", subject=self.config.instance)
            await self._wind_down()

    async def _fit_to_succeed(self) -> bool:
        """Return whether we are to take a predecessor's place; it keeps it if we do not protect."""
        await self._settled(_PATIENCE)
        if self._stopping.is_set():
            return False
        if missing := self.protection.failing():
            raise HostError(
                "take over", "; ".join(missing), "the old daemon has kept its place and protects"
            )
        return True

    async def _succeed(self, predecessor: Inheritance) -> None:
        """Be the instance's daemon from now on, with all that its last one has to remove."""
        await predecessor.say_live()
        self._anothers = False
        await self.selftest.inherit(
            unlink=self._files, rmdir=[self.own_cgroup.path, *self._removable, self.paths.run]
        )

    @property
    def _files(self) -> list[Path]:
        return [self.paths.control, self.paths.handover, self.paths.lock]

    def _start_tasks(self, start: Start) -> None:
        for worker in self.workers:
            start(worker.keep())
        health = self._health()
        start(self.signing.keep())
        start(self.scanners.keep())
        self._watching = [start(health.keep_probing()), start(health.keep_saying())]
        start(self.interception.follow())

    async def _wind_down(self) -> None:
        """Redirect nothing more, and let what is open end, while everything still runs."""
        self.protection.leaving = True
        for each in self._watching:  # workers that accept nothing more are not ill
            each.cancel()
        if self._anothers:
            await self.selftest.inherit(unlink=[], rmdir=[self.own_cgroup.path])
        self.interception.withdraw("the daemon is stopping")
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                tasks.create_task(worker.drain(self.config.web.drain))

    def tell(
        self,
        kind: str,
        *,
        severity: Severity = Severity.INFORMATIONAL,
        subject: str = "",
        outcome: str = "",
        remedy: str = "",
    ) -> None:
        """Record an event of the daemon's own."""
        event_id, at = stamp()
        self.record(
            Event(
                id=event_id,
                at=at,
                kind=kind,
                severity=severity,
                subject=subject,
                outcome=outcome,
                remedy=remedy,
            )
        )

    def record(self, event: Event) -> None:
        """Keep an event, and print it."""
        self.store.record(event)
        self.lines.record(event)

    async def _started(self, stack: AsyncExitStack) -> bool:
        """Start; return False if we were told to stop before that was done."""
        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(self._start(stack))
            stopped = tasks.create_task(self._stopping.wait())
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            both = starting, stopped
            for each in both:
                each.cancel()
        return not starting.cancelled()

    async def _settled(self, seconds: float) -> None:
        """Wait until we are protected or it is clear that something is missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.protection.failing() and not self._stopping.is_set():  # noqa: ASYNC110 - facts grow old by themselves
                    await asyncio.sleep(_LOOK)

    async def _start(self, stack: AsyncExitStack) -> None:
        """Bring everything up; what is up is taken down by `stack`, last first."""
        before = self.predecessor
        inherited = before.lock if before else None
        self._anothers = before is not None
        self._lock = stack.enter_context(only_one(self.paths, inherited, lambda: self._anothers))
        self.selftest = SelfTest(self.config.web.ports[0])
        stack.push_async_callback(self.selftest.stop)
        # First of all: from here on there is somebody to tidy up if we are killed.
        self.selftest.start(
            home=find_root(),
            lock=self._lock,
            unlink=[] if before else self._files,
            rmdir=[] if before else [self.paths.run],
        )
        sockets = before.listen if before else bind(self.config.web.listen_port)
        if sockets[0].getsockname()[1] != self.config.web.listen_port:
            raise RefusedError(
                "the daemon that runs has another web.listen_port"
                " (stop it, and start without --take-over)"
            )
        self._listen = [stack.enter_context(each) for each in sockets]
        self.interception = Interception(self.config, self.protection, self._learned)
        stack.push(self._end_interception)
        self.isolating = Isolating(
            self.interception,
            self.tell,
            cut_connections=self._cut_connections,
            leaving=lambda: self._anothers or self._offer.pending,
        )
        self.own_cgroup, removable = self.interception.prepare()
        self._removable = [*removable, *(before.removable if before else ())]
        stack.callback(self._remove_cgroups)
        # Last in, first out: the sentry leaves the cgroup, then that is removed.
        stack.push_async_callback(self.selftest.stop)
        await self.selftest.enter(self.own_cgroup.path, rmdir=[] if before else self._removable)
        await self._start_signing(stack)
        # Loaded before there is a worker: a second daemon is refused here, and nothing is
        # redirected yet but the self-test.
        self.interception.load(self.own_cgroup, successor=before is not None)
        for worker in self.workers:
            stack.push_async_callback(worker.stop)
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                tasks.create_task(worker.start())
        await self._health().first_selftest()
        stack.callback(self.interception.withdraw, "the daemon is stopping")
        await self.interception.go_live()

    async def _start_signing(self, stack: AsyncExitStack) -> None:
        pairs = [channel.pair() for _ in range(self.protection.expected_workers)]
        for each in (end for both in pairs for end in both):
            stack.enter_context(each)
        self.signing = Signing(self.paths.ca, [signers for signers, _ in pairs], self.tell)
        stack.push_async_callback(self.signing.stop)
        self.scanners = Scanners(self.material, self.tell)
        stack.push_async_callback(self.scanners.stop)
        self.authority = await self.signing.start()
        publish.publish(self.paths.root, self.authority)
        self._make_workers([workers for _, workers in pairs])

    def _make_workers(self, signers: Sequence[socket.socket]) -> None:
        ports = Ports(
            record=self.record,
            tell=self.tell,
            whose=self.interception.whose,
            containers=lambda: self.interception.inventory.containers,
            probed=self.selftest.seen,
            trusted=self._trusted,
        )
        inherited = self.inherited(self.material)
        self.workers = [
            Worker(
                number=number,
                signer=signer,
                scanners=self.scanners.of_worker(number),
                inherited=inherited,
                ports=ports,
                protection=self.protection,
            )
            for number, signer in enumerate(signers, start=1)
        ]

    def inherited(self, material: Material) -> Inherited:
        """Return what workers get by descriptor for `material`. Raises `ConfigError`."""
        extra = tuple(Path(each) for each in material.config.tls.extra_ca)
        try:
            roots = publish.upstream_roots(self.paths.root, extra, self.authority)
        except ConfigError as error:
            raise ConfigError(
                error.where, f"{error.problem} (correct the file, or tls.extra_ca in the settings)"
            ) from error
        return Inherited(
            listen=self._listen,
            settings=sealed("settings", material.for_workers(self.own_cgroup.id)),
            rules=sealed("rules", material.rules),
            roots=sealed("roots", roots),
        )

    def _health(self) -> Health:
        return Health(
            interception=self.interception,
            selftest=self.selftest,
            own_cgroup=self.own_cgroup,
            protection=self.protection,
            workers=self.workers,
            tell=self.tell,
        )

    def _end_interception(self, failed: object, *_: object) -> None:
        self.interception.close(failed=failed is not None)

    def _cut_connections(self) -> None:
        for worker in self.workers:
            worker.cut()

    def _gift(self) -> tuple[list[int], list[Path]]:
        if self._anothers:
            raise RefusedError("the daemon before this one has not let go of its place (end it)")
        if self.interception.kernel.isolation is not None:
            raise RefusedError(
                "isolation is on and would end with this daemon (webguard isolation off first)"
            )
        return [self._lock, *(each.fileno() for each in self._listen)], self._removable

    def _taken_over(self) -> None:
        """A successor protects now: go, and leave it what is its own."""
        self._anothers = True
        self.tell("daemon.succeeded", subject=self.config.instance)
        self._stopping.set()

    def _remove_cgroups(self) -> None:
        ours = [self.own_cgroup.path]
        for each in ours if self._anothers else [*ours, *self._removable]:
            # Busy: a container has started below it meanwhile, and keeps it.
            with contextlib.suppress(OSError):
                each.rmdir()

    def _learned(self, container: Container, gone: bool) -> None:
        for worker in self.workers:
            worker.learn(container, gone=gone)
        if gone:
            self.trusted.pop(container.key, None)

    def _trusted(self, key: tuple[str, str, int]) -> None:
        # A worker may say what it likes, but only of containers that there are.
        if any(each.key == key for each in self.interception.inventory.containers):
            self.trusted[key] = time.time_ns()
