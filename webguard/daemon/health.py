"""Measure protection again and again, say when it comes and goes, and act when workers hang."""

import asyncio
import logging
import time
from collections.abc import Sequence

from netiso.cgroups import OwnCgroup
from webguard.daemon.interception import Interception
from webguard.daemon.notify import notify
from webguard.daemon.protection import Protection
from webguard.daemon.selftest import SelfTest
from webguard.daemon.sentry import ANOTHERS
from webguard.daemon.workers import Tell, Worker
from webguard.errors import HostError
from webguard.model import Severity

log = logging.getLogger(__name__)

_PROBE_EVERY = 0.4
_SAY_EVERY = 0.1
_SELFTEST_TRIES = 10
_ALIVE_EVERY = 3.0  # seconds; WatchdogSec= of the unit is ten times that
# Probes unanswered for this long: what is redirected would hang. Far above a long scan.
_HUNG = 6.0


class Health:
    """What the self-test and the kernel say about this daemon, and what follows from it."""

    def __init__(
        self,
        *,
        interception: Interception,
        selftest: SelfTest,
        own_cgroup: OwnCgroup,
        protection: Protection,
        workers: Sequence[Worker],
        tell: Tell,
    ) -> None:
        self._interception = interception
        self._selftest = selftest
        self._own_cgroup = own_cgroup
        self._protection = protection
        self._workers = workers
        self._tell = tell
        self._instance = interception.kernel.redirect.instance
        self._port = interception.kernel.redirect.proxy_port
        self._said_protected: bool | None = None
        self._said_alive = -_ALIVE_EVERY
        self._silent: set[int] = set()

    async def first_selftest(self) -> None:
        """See one self-test connection arrive at a worker, by the self-test's own rule."""
        # The workers' messages are read by tasks that do not run yet.
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(each.keep()) for each in self._workers]
            answer = ""
            for _ in range(_SELFTEST_TRIES):
                answer = await self._selftest.probe("IPv4")
                if not answer:
                    break
            for each in listening:
                each.cancel()
        if answer:
            raise HostError(
                "send a self-test connection through the redirect",
                answer,
                f"is port {self._port} on loopback filtered by another firewall?",
            )

    async def keep_probing(self) -> None:
        """Measure protection again and again, and act when the workers do not answer."""
        failing_since: float | None = None
        while True:
            started = time.monotonic()
            answer = await self._probe_once()
            if not answer:
                failing_since = None
                if not self._protection.live and not self._interception.withheld:
                    self._resume()
            elif answer == ANOTHERS:  # no more than that; ours are judged by their reports
                failing_since = None
            else:
                failing_since = failing_since or started
                # With other rules than ours a probe proves nothing against workers that report.
                workers = self._protection.silent() or not self._protection.differences
                if workers and started - failing_since > _HUNG:
                    self._give_up_on_workers(answer)
                    failing_since = None
            self._kill_the_silent()
            self._say_alive()
            await asyncio.sleep(max(0.05, _PROBE_EVERY - (time.monotonic() - started)))

    def _say_alive(self) -> None:
        """Tell the service manager's watchdog that a turn of probing has come to its end.

        Whatever the turn found: what is wrong outside would not be mended by a
        restart, which costs the inspection that there is.
        """
        now = time.monotonic()
        if now - self._said_alive >= _ALIVE_EVERY:
            self._said_alive = now
            notify("WATCHDOG=1")

    async def keep_saying(self) -> None:
        """Say so when protection comes or goes: facts grow old while a probe waits."""
        while True:
            self._say_if_changed()
            await asyncio.sleep(_SAY_EVERY)

    async def _probe_once(self) -> str:
        """Probe both families; return what is wrong with IPv4, "" if nothing."""
        answer = await self._selftest.probe("IPv4")
        if not answer:
            self._protection.seen["IPv4"] = time.monotonic()
        second = await self._selftest.probe("IPv6")
        self._protection.v6 = second != "no route"
        if not second:
            self._protection.seen["IPv6"] = time.monotonic()
        return answer

    def _kill_the_silent(self) -> None:
        """End a worker that hangs while others serve: its connections would wait for ever."""
        silent = {each.number for each in self._workers if each.silent_for() > _HUNG}
        for worker in self._workers:
            # At the second look: after a pause of our own their reports lie there unread.
            if worker.number in silent & self._silent:
                worker.kill()
        self._silent = silent

    def _give_up_on_workers(self, answer: str) -> None:
        why = f"the workers do not answer ({answer})"
        if self._protection.live:
            try:
                self._interception.withdraw(why)
                self._interception.begin_selftest(self._own_cgroup)
            except HostError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is all there is to know
            self._tell(
                "interception.off",
                severity=Severity.HIGH,
                subject=self._instance,
                outcome=why,
                remedy="the workers are restarted; if this repeats, see the log",
            )
        for worker in self._workers:
            worker.kill()

    def _resume(self) -> None:
        """Redirect the containers again. What proved the self-test's rule does not prove theirs."""
        try:
            self._interception.resume(self._own_cgroup)
        except HostError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is all there is to know
            return
        self._protection.seen.clear()
        self._tell("interception.on", subject=self._instance)

    def _say_if_changed(self) -> None:
        if self._protection.leaving:
            return
        missing = self._protection.missing()
        protected = not missing
        if protected == self._said_protected or (self._said_protected is None and not protected):
            return  # nothing new; and what never began was not lost
        self._said_protected = protected
        if protected:
            self._tell("protection.on", subject=self._instance)
        else:
            self._tell(
                "protection.lost",
                severity=Severity.HIGH,
                subject=self._instance,
                outcome="; ".join(missing)[:2000],
                remedy="webguard status",
            )
