"""A worker's link to the scan processes, which open what is packed in a body.

The worker itself opens no archive: it only sees that something is one. Whatever
keeps a scan process from answering is "not scanned", for `web.unscanned` to decide.
"""

import asyncio
import logging
import os
from collections.abc import Sequence

from webguard.daemon import channel
from webguard.daemon.channel import Channel
from webguard.daemon.children import sealed
from webguard.model import ScanResult, Unscanned
from webguard.scan.archive import ARCHIVE, is_archive

log = logging.getLogger(__name__)

PATIENCE = 8.0
"""Seconds for one archive, its turn included."""

_AT_ONCE = 8  # under way to one process; each holds a copy of its body in memory


class _Link:
    """The channel to one scan process, over its restarts."""

    def __init__(self, end: Channel) -> None:
        self.end = end
        self.waiting: dict[int, asyncio.Future[ScanResult]] = {}
        self.turns = asyncio.Semaphore(_AT_ONCE)


class Archives:
    """Has archives scanned, each by the scan process that has least to do."""

    def __init__(self, ends: Sequence[Channel], patience: float = PATIENCE) -> None:
        self._links = [_Link(each) for each in ends]
        self._patience = patience
        # A predecessor's answers may still be in the pipe: start at a number it never used.
        self._number = int.from_bytes(os.urandom(6))

    async def unpack(self, content: bytes) -> ScanResult:
        """Return what is packed in `content`, if that is an archive. Never raises for content."""
        if not is_archive(content):
            return ScanResult()
        link = min(self._links, key=lambda each: len(each.waiting))
        try:
            async with asyncio.timeout(self._patience), link.turns:
                return await self._ask(link, content)
        except TimeoutError:
            return _unscanned(f"the scan process did not answer within {self._patience:g} s")
        except OSError as error:
            return _unscanned(f"it could not be handed to the scan process: {error.strerror}")

    async def _ask(self, link: _Link, content: bytes) -> ScanResult:
        self._number += 1
        number = self._number
        answer: asyncio.Future[ScanResult] = asyncio.get_running_loop().create_future()
        link.waiting[number] = answer
        try:
            descriptor = await asyncio.to_thread(sealed, "archive", content)
            try:
                sent = link.end.send(channel.Unpack(number=number), (descriptor,))
            finally:
                os.close(descriptor)
            if not sent:
                return _unscanned("the scan process does not read")
            return await answer
        finally:
            del link.waiting[number]

    async def listen(self) -> None:
        """Hand answers to those who wait for them."""
        async with asyncio.TaskGroup() as tasks:
            for link in self._links:
                tasks.create_task(_listen(link))


async def _listen(link: _Link) -> None:
    while True:
        try:
            message = await link.end.receive()
        except ValueError as error:  # it may have been taken over by what it reads
            log.warning("webguard-scan: %s", error)
            continue
        if message is None:
            return
        if isinstance(message, channel.Unpacked):
            waiting = link.waiting.get(message.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message.result)


def _unscanned(reason: str) -> ScanResult:
    return ScanResult(unscanned=(Unscanned(where=ARCHIVE, reason=reason),))
