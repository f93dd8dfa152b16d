"""The scan processes of the daemon: started, listened to, restarted.

Nothing else waits for them. While one is away, archives wait in its channel and are
scanned by its successor, or are not scanned when a worker's patience ends.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence

from webguard.daemon import channel
from webguard.daemon.children import Service, sealed, start_scanner
from webguard.daemon.material import Material
from webguard.daemon.workers import Tell, pause
from webguard.errors import WebguardError
from webguard.model import Severity

log = logging.getLogger(__name__)

LEAST = 64 * 1024**2
"""Bytes that it takes at the least: what a body decodes to may be larger than `web.max_body`."""

_GRACE = 2.0
_ASK = 1.0
# It answers between two archives only, and the kernel ends it when one takes longer.
_HUNG = 15.0
_STEADY = 60.0
_RENEWAL = 10.0
"""Seconds that a reload waits for processes with the new rules; the old ones answer nobody."""


class Scanner:
    """One scan process, over its restarts."""

    def __init__(self, number: int, ends: Sequence[socket.socket], tell: Tell) -> None:
        self.number = number
        self._ends = ends
        self._tell = tell
        self._service: Service | None = None
        self._renewed = False
        self.ready = asyncio.Event()
        self.rules = self.hashes = -1
        self.largest = LEAST

    @property
    def pid(self) -> int:
        """Return it, 0 if there is none. One that is starting has what waits for it soon."""
        return self._service.child.pid if self._service else 0

    def renew(self) -> None:
        """Have it end when it has finished what it is at; its successor has other rules."""
        self.ready.clear()
        self._renewed = True
        if self._service is not None:
            self._service.channel.send(channel.Drain(seconds=0))

    async def keep(self) -> None:
        """Start another whenever it ends, ever more slowly."""
        failures = 0
        while True:
            began = time.monotonic()
            self._renewed = False
            try:
                how = await self._live()
            except (WebguardError, ValueError, OSError) as error:
                how = str(error)
                await self.stop()
            self.ready.clear()
            if self._renewed:
                continue
            self._ended(how)
            failures = 1 if time.monotonic() - began > _STEADY else failures + 1
            await asyncio.sleep(pause(failures))

    async def _live(self) -> str:
        """Start a process, and return how it ended."""
        service = self._service = start_scanner(
            self.number, self.rules, self.hashes, self.largest, self._ends
        )
        await service.ready()
        if not self._renewed:  # else it has the old ones, and is about to end
            self.ready.set()
        await self._until_it_ends(service)
        code = await service.child.wait()
        service.channel.close()
        self._service = None
        return f"exit code {code}"

    async def _until_it_ends(self, service: Service) -> None:
        """Ask it again and again whether it is there. One that hangs is ended."""
        patience = _ASK
        while True:
            try:
                async with asyncio.timeout(patience):
                    if await service.channel.receive() is None:
                        return
                patience = _ASK
            except ValueError as error:
                log.warning("webguard-scan %d: %s", self.number, error)
            except TimeoutError:
                if patience == _HUNG:
                    service.child.signal(signal.SIGKILL)
                service.channel.send(channel.Ready())
                patience = _HUNG

    def _ended(self, how: str) -> None:
        self._tell(
            "scanner.ended",
            severity=Severity.HIGH,
            subject=f"webguard-scan {self.number}",
            outcome=how,
            remedy="it is restarted; if this repeats, see the log",
        )

    async def stop(self) -> None:
        """End it."""
        if self._service is not None:
            service, self._service = self._service, None
            await service.stop(_GRACE)


class Scanners:
    """All of them, with a channel from each to each worker that outlives both."""

    def __init__(self, material: Material, tell: Tell) -> None:
        workers = range(material.config.web.workers)
        pairs = [[channel.pair() for _ in workers] for _ in range(material.config.scan.workers)]
        self._pairs = pairs
        self.each = [
            Scanner(number, [ours for ours, _ in ends], tell)
            for number, ends in enumerate(pairs, start=1)
        ]
        self._descriptors: tuple[int, ...] = ()
        self._use(material)

    def of_worker(self, number: int) -> list[socket.socket]:
        """Return the ends of worker `number` (from 1 on), one of each scan process."""
        return [ends[number - 1][1] for ends in self._pairs]

    async def keep(self) -> None:
        """Start others whenever they end."""
        async with asyncio.TaskGroup() as tasks:
            for each in self.each:
                tasks.create_task(each.keep())

    async def renew(self, material: Material) -> None:
        """Have all work by other rules and hashes; return when they do, or will with a delay."""
        self._use(material)
        for each in self.each:
            each.renew()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RENEWAL):
                for each in self.each:
                    await each.ready.wait()

    async def stop(self) -> None:
        """End them, and close what they were given."""
        for each in self.each:
            await each.stop()
        for end in (end for ends in self._pairs for pair in ends for end in pair):
            end.close()
        self._close()

    def _use(self, material: Material) -> None:
        self._close()
        lists = [(each.name, each.entries) for each in material.policy.hashes]
        rules = sealed("rules", material.rules)
        hashes = sealed("hashes", json.dumps(lists).encode())
        self._descriptors = rules, hashes
        for each in self.each:
            each.rules, each.hashes = rules, hashes
            each.largest = max(LEAST, material.config.web.max_body)

    def _close(self) -> None:
        for each in self._descriptors:
            os.close(each)
        self._descriptors = ()
