"""Start our own processes, each with the descriptors it needs and nothing else."""

import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webguard import host
from webguard.daemon import channel, journal
from webguard.daemon.channel import Channel, Failed, Message, Ready
from webguard.daemon.paths import PROXY_USER, SCAN_USER, SIGNER_USER
from webguard.errors import HostError, WebguardError
from webguard.host import Child

START = 60.0
"""Seconds in which a child must be ready. Importing mitmproxy takes one, on a busy host many."""

_REMEDY = "run `make install` again: it makes the service users and a place they can read"


def sealed(name: str, data: bytes) -> int:
    """Return a descriptor of a memory file with this content, which nobody can change any more."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as whole:
        whole.write(data)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@dataclass(slots=True)
class Service:
    """One process of ours and our end of its channel."""

    child: Child
    channel: Channel

    async def ready(self) -> Ready:
        """Wait until it can serve and return what it said.

        Raises `WebguardError` with its reason, which names its own remedy, or `HostError`.
        """
        try:
            async with asyncio.timeout(START):
                message: Message | None = await self.channel.receive()
        except (TimeoutError, ValueError) as error:
            why = str(error) or f"not ready after {START:g} s"
            raise HostError(f"start {self.child.name}", why, _REMEDY) from error
        match message:
            case Ready():
                return message
            case Failed():
                raise WebguardError(message.message)
            case None:
                raise HostError(f"start {self.child.name}", "it ended at once", _REMEDY)
            case _:
                raise HostError(f"start {self.child.name}", f"it said {message.type}", _REMEDY)

    async def stop(self, grace: float) -> int:
        """Close the channel, which tells it to end; return the exit code once it has."""
        self.channel.close()
        return await self.child.stop(grace)


@dataclass(frozen=True, slots=True)
class Inherited:
    """What every worker gets by descriptor."""

    listen: Sequence[socket.socket]
    settings: int
    rules: int
    roots: int

    def close(self) -> None:
        """Let go of what nobody starts with any more; the listening sockets stay."""
        for each in (self.settings, self.rules, self.roots):
            os.close(each)


def start_signer(ca: Path, workers: Sequence[socket.socket]) -> Service:
    """Start the signer, with its ends of the workers' channels."""
    ours, theirs = channel.pair()
    with theirs:
        descriptors = [theirs.fileno(), *(each.fileno() for each in workers)]
        arguments = [f"--daemon={theirs.fileno()}", f"--ca={ca}"]
        arguments += [f"--worker={each.fileno()}" for each in workers]
        child = _spawn("webguard-signer", "signer", SIGNER_USER, arguments, descriptors)
    return Service(child, Channel(ours))


def start_scanner(
    number: int, rules: int, hashes: int, largest: int, workers: Sequence[socket.socket]
) -> Service:
    """Start a scan process, with its ends of the workers' channels."""
    ours, theirs = channel.pair()
    with theirs:
        named = {"daemon": theirs.fileno(), "rules": rules, "hashes": hashes}
        ends = [each.fileno() for each in workers]
        arguments = [f"--{name}={value}" for name, value in named.items()]
        arguments += [f"--worker={each}" for each in ends]
        arguments.append(f"--largest={largest}")
        descriptors = [*named.values(), *ends]
        name = f"webguard-scan {number}"
        child = _spawn(name, "unpacking", SCAN_USER, arguments, descriptors)
    return Service(child, Channel(ours))


def start_worker(
    number: int,
    inherited: Inherited,
    signer: socket.socket,
    scanners: Sequence[socket.socket] = (),
) -> Service:
    """Start a worker.

    `signer` and `scanners` are its ends of the channels to the signer and to each
    scan process, kept for a successor.
    """
    ours, theirs = channel.pair()
    with theirs:
        named = {
            "daemon": theirs.fileno(),
            "signer": signer.fileno(),
            "settings": inherited.settings,
            "rules": inherited.rules,
            "roots": inherited.roots,
        }
        sockets = [each.fileno() for each in inherited.listen]
        arguments = [f"--{name}={value}" for name, value in named.items()]
        arguments += [f"--listen={each}" for each in sockets]
        ends = [each.fileno() for each in scanners]
        arguments += [f"--scanner={each}" for each in ends]
        descriptors = [*named.values(), *sockets, *ends]
        name = f"webguard-proxy {number}"
        child = _spawn(name, "worker", PROXY_USER, arguments, descriptors)
    return Service(child, Channel(ours))


def _spawn(
    name: str, module: str, user: str, arguments: Sequence[str], descriptors: Sequence[int]
) -> Child:
    return host.spawn(
        [
            sys.executable,
            "-P",
            "-m",
            f"webguard.daemon.{module}",
            f"--parent={os.getpid()}",
            *arguments,
        ],
        name=name,
        user=user,
        fds=descriptors,
        remedy=_REMEDY,
        # What a child logs goes where our own log goes, and looks like it.
        environment={k: v for k, v in os.environ.items() if k == journal.STREAM},
    )
