"""The signer process, over its restarts."""

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from certs.certificate import OurCertificate, our_certificate
from webguard.daemon import channel
from webguard.daemon.children import Service, start_signer
from webguard.daemon.workers import Tell
from webguard.errors import RefusedError, WebguardError
from webguard.model import Severity

log = logging.getLogger(__name__)

_GRACE = 2.0
_PAUSE = 1.0
# Far above what signing takes on a busy host; without a signer new names are refused.
_HUNG = 6.0


class Signing:
    """Keeps one signer alive. Without one there is no new HTTPS connection."""

    def __init__(self, ca: Path, ends: Sequence[socket.socket], tell: Tell) -> None:
        self._ca = ca
        self._ends = ends
        self._tell = tell
        self._service: Service | None = None
        self._certificate: OurCertificate | None = None

    async def start(self) -> OurCertificate:
        """Start it, and return the CA's certificate. Raises `HostError` with its reason."""
        self._service = start_signer(self._ca, self._ends)
        said = await self._service.ready()
        self._certificate = our_certificate(said.certificate)
        return self._certificate

    async def keep(self) -> None:
        """Start another whenever it ends."""
        while True:
            if self._service is not None:
                await self._until_it_ends(self._service)
                code = await self._service.child.wait()
                self._service.channel.close()
                self._service = None
                self._ended(f"exit code {code}")
            await asyncio.sleep(_PAUSE)
            try:
                await self._again()
            except (WebguardError, ValueError, OSError) as error:
                ended = await self.stop()
                self._ended(f"exit code {ended}: {error}")

    async def _until_it_ends(self, service: Service) -> None:
        """Ask it again and again whether it is there. One that hangs is ended."""
        patience = 0.0
        while True:
            try:
                async with asyncio.timeout(patience):
                    if await service.channel.receive() is None:
                        return
                patience = _PAUSE  # it has answered
            except ValueError as error:
                log.warning("webguard-signer: %s", error)
            except TimeoutError:
                if patience == _HUNG:
                    service.child.signal(signal.SIGKILL)
                service.channel.send(channel.Ready())
                patience = _HUNG

    async def _again(self) -> None:
        before = self._certificate
        if before is not None and await self.start() != before:
            self._certificate = before
            raise RefusedError(
                "the CA's folder holds another CA than the one that containers were given"
                " (put the folder back, or start webguard again to go on with the new one)"
            )

    def _ended(self, how: str) -> None:
        self._tell(
            "signer.ended",
            severity=Severity.HIGH,
            subject="webguard-signer",
            outcome=how,
            remedy="it is restarted; if this repeats, see the log",
        )

    async def stop(self) -> int | None:
        """End it, and return its exit code, None if there was none."""
        if self._service is None:
            return None
        service, self._service = self._service, None
        return await service.stop(_GRACE)
