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
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certs import publish
from certs.certificate import OurCertificate, our_certificate
from netiso.cgroups import OwnCgroup, find_root
from webguard.daemon import channel
from webguard.daemon.children import Inherited, Service, sealed, start_signer
from webguard.daemon.clock import stamp
from webguard.daemon.interception import Interception
from webguard.daemon.listen import bind
from webguard.daemon.lock import only_one
from webguard.daemon.paths import Paths
from webguard.daemon.protection import Protection
from webguard.daemon.selftest import SelfTest
from webguard.daemon.settings import Settings
from webguard.daemon.workers import Ports, Worker
from webguard.errors import ConfigError, HostError, WebguardError
from webguard.model import Container, Event, Severity
from webguard.policy.config import Config
from webguard.store.lines import Lines

log = logging.getLogger(__name__)

_PROBE_EVERY = 0.4
_SELFTEST_TRIES = 10
# Probes unanswered for this long: what is redirected would hang. Far above a long scan.
_HUNG = 6.0
_SIGNER_GRACE = 2.0
_SETTLE = 5.0
_SAY_EVERY = 0.1
_SIGNER_PAUSE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the daemon read for its workers before it starts: bytes, not paths."""

    policy_settings: Callable[[int], Settings]  # from the self-test's cgroup id
    rules: bytes


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """One daemon. `run` returns when it is told to stop and everything is down again."""

    config: Config
    paths: Paths
    lines: Lines
    material: Material
    protection: Protection = field(default_factory=lambda: Protection(expected_workers=1))
    trusted: dict[tuple[str, str, int], int] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    interception: Interception = field(init=False)
    authority: OurCertificate = field(init=False)
    signer: Service = field(init=False)
    selftest: SelfTest = field(init=False)
    own_cgroup: OwnCgroup = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _said_protected: bool | None = None
    _signer_ends: list[socket.socket] = field(default_factory=list)

    async def run(
        self,
        control: Callable[["Supervisor"], AbstractAsyncContextManager[None]],
        ready: Callable[["Supervisor"], None],
    ) -> None:
        """Protect until SIGINT or SIGTERM. `control` serves the socket; `ready` is told once.

        Raises `HostError`, `ConfigError` or `RefusedError` when protection cannot begin.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as stack:
            if not await self._started(stack):
                return
            await stack.enter_async_context(control(self))
            start = await stack.enter_async_context(_crew())
            for worker in self.workers:
                start(worker.keep())
            start(self._keep_signer())
            start(self._keep_probing())
            start(self._keep_saying())
            start(self.interception.follow())
            self.tell("daemon.started", subject=self.config.instance)
            await self._settled()
            ready(self)
            await self._stopping.wait()
            self.tell("daemon.stopping", subject=self.config.instance)

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

    async def _settled(self) -> None:
        """Wait until we are protected or it is clear that something is missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                while self.protection.missing() and not self._stopping.is_set():  # noqa: ASYNC110 - facts grow old by themselves
                    await asyncio.sleep(_PROBE_EVERY / 4)

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
        self.lines.record(
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

    async def _start(self, stack: AsyncExitStack) -> None:
        """Bring everything up; what is up is taken down by `stack`, last first."""
        lock = stack.enter_context(only_one(self.paths))
        self.selftest = SelfTest(self.config.web.ports[0])
        stack.push_async_callback(self.selftest.stop)
        # First of all: from here on there is somebody to tidy up if we are killed.
        self.selftest.start(
            home=find_root(),
            lock=lock,
            unlink=[self.paths.control, self.paths.lock],
            rmdir=[self.paths.run],
        )
        listen = [stack.enter_context(each) for each in bind(self.config.web.listen_port)]
        self.interception = Interception(self.config, self.protection, self._learned)
        stack.callback(self.interception.close)
        self.own_cgroup, removable = self.interception.prepare()
        stack.callback(_remove, [self.own_cgroup.path, *removable])
        # Last in, first out: the sentry leaves the cgroup, then that is removed.
        stack.push_async_callback(self.selftest.stop)
        await self.selftest.enter(self.own_cgroup.path, rmdir=removable)
        await self._start_signer(stack, listen)
        # Loaded before there is a worker: a second daemon is refused here, and nothing is
        # redirected yet but the self-test.
        self.interception.load(self.own_cgroup)
        for worker in self.workers:
            stack.push_async_callback(worker.stop)
            await worker.start()
        await self._first_selftest()
        stack.callback(self.interception.withdraw, "the daemon is stopping")
        await self.interception.go_live()

    async def _start_signer(self, stack: AsyncExitStack, listen: list[socket.socket]) -> None:
        pairs = [channel.pair() for _ in range(self.protection.expected_workers)]
        for each in (end for both in pairs for end in both):
            stack.enter_context(each)
        self._signer_ends = [signers for signers, _ in pairs]
        self.signer = start_signer(self.paths.ca, self._signer_ends)
        stack.push_async_callback(self._stop_signer)
        said = await self.signer.ready()
        self.authority = our_certificate(said.certificate)
        publish.publish(self.paths.root, self.authority)
        settings = self.material.policy_settings(self.own_cgroup.id)
        inherited = Inherited(
            listen=listen,
            settings=sealed("settings", settings.model_dump_json().encode()),
            rules=sealed("rules", self.material.rules),
            roots=sealed("roots", self._roots()),
        )
        ports = Ports(
            record=self.lines.record,
            tell=self.tell,
            whose=self.interception.whose,
            containers=lambda: self.interception.inventory.containers,
            probed=self.selftest.seen,
            trusted=self._trusted,
        )
        self.workers = [
            Worker(
                number=number,
                signer=workers,
                inherited=inherited,
                ports=ports,
                protection=self.protection,
            )
            for number, (_, workers) in enumerate(pairs, start=1)
        ]

    def _roots(self) -> bytes:
        extra = tuple(Path(each) for each in self.config.tls.extra_ca)
        try:
            return publish.upstream_roots(self.paths.root, extra, self.authority)
        except ConfigError as error:
            raise ConfigError(
                error.where, f"{error.problem} (correct the file, or tls.extra_ca in the settings)"
            ) from error

    async def _first_selftest(self) -> None:
        """See one self-test connection arrive at a worker, by the self-test's own rule."""
        # The workers' messages are read by tasks that do not run yet.
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(each.keep()) for each in self.workers]
            answer = ""
            for _ in range(_SELFTEST_TRIES):
                answer = await self.selftest.probe("IPv4")
                if not answer:
                    break
            for each in listening:
                each.cancel()
        if answer:
            raise HostError(
                "send a self-test connection through the redirect",
                answer,
                f"is port {self.config.web.listen_port} on loopback filtered by another firewall?",
            )

    async def _keep_probing(self) -> None:
        """Measure protection again and again, and act when the workers do not answer."""
        failing_since: float | None = None
        while True:
            started = time.monotonic()
            answer = await self._probe_once()
            if not answer:
                failing_since = None
                if not self.protection.live:
                    self._resume()
            else:
                failing_since = failing_since or started
                # With other rules than ours a probe proves nothing against workers that report.
                workers = self.protection.silent() or not self.protection.differences
                if workers and started - failing_since > _HUNG:
                    self._give_up_on_workers(answer)
                    failing_since = None
            await asyncio.sleep(max(0.05, _PROBE_EVERY - (time.monotonic() - started)))

    async def _keep_saying(self) -> None:
        """Say so when protection comes or goes: facts grow old while a probe waits."""
        while True:
            self._say_if_changed()
            await asyncio.sleep(_SAY_EVERY)

    async def _probe_once(self) -> str:
        """Probe both families; return what is wrong with IPv4, "" if nothing."""
        answer = await self.selftest.probe("IPv4")
        if not answer:
            self.protection.seen["IPv4"] = time.monotonic()
        second = await self.selftest.probe("IPv6")
        self.protection.v6 = second != "no route"
        if not second:
            self.protection.seen["IPv6"] = time.monotonic()
        return answer

    def _give_up_on_workers(self, answer: str) -> None:
        why = f"the workers do not answer ({answer})"
        if self.protection.live:
            try:
                self.interception.withdraw(why)
                self.interception.begin_selftest(self.own_cgroup)
            except HostError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is all there is to know
            self.tell(
                "interception.off",
                severity=Severity.HIGH,
                subject=self.config.instance,
                outcome=why,
                remedy="the workers are restarted; if this repeats, see the log",
            )
        for worker in self.workers:
            worker.kill()

    def _resume(self) -> None:
        """Redirect the containers again. What proved the self-test's rule does not prove theirs."""
        try:
            self.interception.resume(self.own_cgroup)
        except HostError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is all there is to know
            return
        self.protection.seen.clear()
        self.tell("interception.on", subject=self.config.instance)

    def _say_if_changed(self) -> None:
        missing = self.protection.missing()
        protected = not missing
        if protected == self._said_protected:
            return
        self._said_protected = protected
        if protected:
            self.tell("protection.on", subject=self.config.instance)
        else:
            self.tell(
                "protection.lost",
                severity=Severity.HIGH,
                subject=self.config.instance,
                outcome="; ".join(missing)[:2000],
                remedy="webguard status",
            )

    async def _keep_signer(self) -> None:
        """Start another signer whenever it ends. Without one there is no new HTTPS connection."""
        while True:
            while await self.signer.channel.receive() is not None:
                pass
            code = await self.signer.child.wait()
            self.tell(
                "signer.ended",
                severity=Severity.HIGH,
                subject="webguard-signer",
                outcome=f"exit code {code}",
                remedy="it is restarted; if this repeats, see the log",
            )
            await asyncio.sleep(_SIGNER_PAUSE)
            self.signer.channel.close()
            self.signer = start_signer(self.paths.ca, self._signer_ends)
            try:
                await self.signer.ready()
            except WebguardError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is all there is to know

    async def _stop_signer(self) -> None:
        await self.signer.stop(_SIGNER_GRACE)

    def _learned(self, container: Container, gone: bool) -> None:
        for worker in self.workers:
            worker.learn(container, gone=gone)
        if gone:
            self.trusted.pop(container.key, None)

    def _trusted(self, key: tuple[str, str, int]) -> None:
        # A worker may say what it likes, but only of containers that there are.
        if any(each.key == key for each in self.interception.inventory.containers):
            self.trusted[key] = time.time_ns()


def _remove(folders: list[Path]) -> None:
    for each in folders:
        # Busy: a container has started below it meanwhile, and keeps it.
        with contextlib.suppress(OSError):
            each.rmdir()


@asynccontextmanager
async def _crew() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Run tasks until the block ends. One that fails ends the block with its error."""
    async with asyncio.TaskGroup() as tasks:
        running: list[asyncio.Task[None]] = []

        def start(what: Coroutine[Any, Any, None]) -> None:
            running.append(tasks.create_task(what))

        try:
            yield start
        finally:
            for each in running:
                each.cancel()
