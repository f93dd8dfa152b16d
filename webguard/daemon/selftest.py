"""Drive the sentry: connections whose only purpose is to be seen by a worker.

The IPv4 probe goes to an address of 127.0.0.0/8 that is ours by convention and
exempt from the rule that leaves loopback alone, so that it works on a host
without any network. IPv6 has one loopback address; there a documentation
prefix (RFC 3849) is asked for, which the redirect answers wherever the host has
a route for IPv6 at all.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from netiso.redirect import PROBE_ADDRESS
from webguard import host
from webguard.daemon import sentry as sentry_file
from webguard.daemon.sentry import ANOTHERS
from webguard.errors import HostError
from webguard.host import Child

_V6 = "2001:db8::7767"
_TIMEOUT = 0.7
_START = 20.0
TARGETS = {"IPv4": PROBE_ADDRESS, "IPv6": _V6}


class SelfTest:
    """The sentry process and the connections that were seen."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._pipe: socket.socket | None = None
        self._child: Child | None = None
        self._asked = 0
        self._seen: set[int] = set()
        self._told = asyncio.Event()
        self._busy = asyncio.Lock()

    def start(self, *, home: Path, lock: int, unlink: list[Path], rmdir: list[Path]) -> None:
        """Start the sentry: if the daemon dies from now on, it removes `unlink` and `rmdir`.

        It inherits `lock`, the descriptor of the instance's lock; `home` is the
        cgroup that it goes to in the end.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        task = {
            "home": str(home),
            "unlink": [str(each) for each in unlink],
            "rmdir": [str(each) for each in rmdir],
        }
        ours.setblocking(False)
        self._pipe = ours
        argv = [sys.executable, "-I", "-S", str(sentry_file.__file__)]
        with theirs:
            self._child = host.spawn(
                [*argv, str(theirs.fileno()), json.dumps(task)],
                name="webguard-sentry",
                fds=[theirs.fileno(), lock],
                remedy="see the log",
            )

    async def enter(self, cgroup: Path, *, rmdir: list[Path]) -> None:
        """Let the sentry live in `cgroup`; it removes that and `rmdir` if the daemon dies.

        Raises `HostError`.
        """
        folders = [str(each) for each in (cgroup, *rmdir)]
        async with self._busy:
            try:
                said = await self._ask({"enter": str(cgroup), "rmdir": folders}, _START)
            except (OSError, TimeoutError, ValueError) as error:
                said = {"ended": f"no answer ({type(error).__name__})"}
        if not said.get("ready"):
            raise HostError("start the self-test", str(said["ended"]), "see the log")

    async def inherit(self, *, unlink: list[Path], rmdir: list[Path]) -> None:
        """Have the sentry remove these, and nothing else, if the daemon dies from now on."""
        files, folders = [str(each) for each in unlink], [str(each) for each in rmdir]
        async with self._busy:
            # Without a sentry there is nobody who could remove too much or too little.
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                await self._ask({"tidy": {"unlink": files, "rmdir": folders}}, _START)

    async def _ask(self, question: dict[str, Any], patience: float) -> dict[str, Any]:
        if self._pipe is None:
            raise OSError("the self-test does not run")
        self._asked += 1
        self._pipe.send(json.dumps({**question, "number": self._asked}).encode())
        async with asyncio.timeout(patience):
            while True:
                answer = await asyncio.get_running_loop().sock_recv(self._pipe, 4096)
                said: dict[str, Any] = json.loads(answer)
                # An answer that came too late for its question is no evidence for this one.
                if said.pop("number") == self._asked:
                    return said

    def seen(self, port: int) -> None:
        """A worker has seen a self-test connection that came from this port."""
        if len(self._seen) > 1000:  # nobody asked for these
            self._seen.clear()
        self._seen.add(port)
        self._told.set()

    async def probe(self, family: str) -> str:
        """Make one connection; return "" if a worker saw it, else what happened instead.

        "no route" means that this host cannot send over that family at all. What
        another daemon's worker took says nothing about ours: then it is made again.
        """
        until = time.monotonic() + _TIMEOUT
        while (answer := await self._probe(family)) == ANOTHERS and time.monotonic() < until:
            pass
        return answer

    async def _probe(self, family: str) -> str:
        async with self._busy:
            self._seen.clear()
            question = {"host": TARGETS[family], "port": self.port, "timeout": _TIMEOUT}
            try:
                said = await self._ask(question, _TIMEOUT * 3)
            except (OSError, TimeoutError, ValueError) as error:
                return f"the self-test does not answer ({type(error).__name__})"
            if said["ended"] in ("no route", ANOTHERS):
                return str(said["ended"])
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
        """Say goodbye to the sentry, which leaves its cgroup, and wait until it is gone."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(b'{"goodbye": true}')
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            child, self._child = self._child, None
            try:
                async with asyncio.timeout(5):
                    await child.wait()
            except TimeoutError:
                await child.stop(1)
