"""Drive the sentry: connections whose only purpose is to be seen by a worker.

The IPv4 probe goes to an address of 127.0.0.0/8 that is ours by convention and
exempt from the rule that leaves loopback alone, so that it works on a host
without any network. IPv6 has one loopback address; there a documentation
prefix (RFC 3849) is asked for, which the redirect answers wherever the host has
a route for IPv6 at all.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

from netiso.redirect import PROBE_ADDRESS
from webguard import host
from webguard.daemon import sentry as sentry_file
from webguard.errors import HostError
from webguard.host import Child

_V6 = "2001:db8::7767"
_TIMEOUT = 0.7
TARGETS = {"IPv4": PROBE_ADDRESS, "IPv6": _V6}


class SelfTest:
    """The sentry process and the connections that were seen."""

    def __init__(self, cgroup: Path, port: int) -> None:
        self._cgroup = cgroup
        self._port = port
        self._pipe: socket.socket | None = None
        self._child: Child | None = None
        self._seen: set[int] = set()
        self._told = asyncio.Event()
        self._busy = asyncio.Lock()

    async def start(self, *, home: Path, rmdir: list[Path], unlink: list[Path]) -> None:
        """Start the sentry in its cgroup.

        The cgroup, `rmdir` and `unlink` are removed by the sentry when the daemon is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        task = {
            "cgroup": str(self._cgroup),
            "home": str(home),
            "rmdir": [str(each) for each in (self._cgroup, *rmdir)],
            "unlink": [str(each) for each in unlink],
        }
        ours.setblocking(False)
        with theirs:
            self._child = host.spawn(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(sentry_file.__file__),
                    str(theirs.fileno()),
                    json.dumps(task),
                ],
                name="webguard-sentry",
                fds=[theirs.fileno()],
                remedy="see the log",
            )
        self._pipe = ours
        try:
            async with asyncio.timeout(20):
                said = await asyncio.get_running_loop().sock_recv(ours, 4096)
        except TimeoutError:
            said = b""
        if not said:
            raise HostError("start the self-test", "it ended at once", "see the log")

    def seen(self, port: int) -> None:
        """A worker has seen a self-test connection that came from this port."""
        if len(self._seen) > 1000:  # nobody asked for these
            self._seen.clear()
        self._seen.add(port)
        self._told.set()

    async def probe(self, family: str) -> str:
        """Make one connection; return "" if a worker saw it, else what happened instead.

        "no route" means that this host cannot send over that family at all.
        """
        async with self._busy:
            if self._pipe is None:
                return "the self-test does not run"
            question = {"host": TARGETS[family], "port": self._port, "timeout": _TIMEOUT}
            loop = asyncio.get_running_loop()
            try:
                self._pipe.send(json.dumps(question).encode())
                async with asyncio.timeout(_TIMEOUT * 3):
                    said = json.loads(await loop.sock_recv(self._pipe, 4096))
            except (OSError, TimeoutError, ValueError) as error:
                return f"the self-test does not answer ({type(error).__name__})"
            if "unreachable" in said["ended"] or "Cannot assign" in said["ended"]:
                return "no route"
            try:
                async with asyncio.timeout(_TIMEOUT / 2):
                    while said["port"] not in self._seen:
                        self._told.clear()
                        await self._told.wait()
            except TimeoutError:
                return str(said["ended"])
            self._seen.discard(said["port"])
            return ""

    async def stop(self) -> None:
        """Let the sentry tidy up and wait until it has."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            try:
                async with asyncio.timeout(5):
                    await self._child.wait()
            except TimeoutError:
                await self._child.stop(1)
