"""Give a running daemon's place to a successor, without a connection refused or unseen.

The successor (`webguard run --take-over`) asks over a socket that only root can
open, and gets what there can be only one of: the instance's lock and the
listening sockets. From then on both accept, both inspect, and each has tables
of its own generation. When the successor has seen its own self-test go through
the containers' rule it says so, and the old daemon answers that the place is the
successor's; only then does it withdraw its tables, let its connections end, and
go, leaving behind what is the successor's.

If the successor fails on the way, its end of the socket closes and nothing has
changed for the old daemon. An old daemon that hangs holds nobody up: both have
tables, so all is inspected, and the place changes hands when it comes round or
ends.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from webguard.daemon.paths import Paths
from webguard.daemon.sockets import make_room
from webguard.errors import HostError, RefusedError, UnreachableError

_CREDENTIALS = struct.Struct("=iII")
_LARGEST = 65536
_MOST_SOCKETS = 16
_LIVE = b"live"
_YOURS = b"yours"
_ANSWER = 10.0
_PATIENCE = 10.0
"""Seconds after which an operator hears of a predecessor that does not answer."""

log = logging.getLogger(__name__)

type Gift = Callable[[], tuple[list[int], list[Path]]]
"""The descriptors (lock, then listening sockets) and folders that a successor gets."""


@dataclass(slots=True)
class Inheritance:
    """What a successor got: the lock, the listening sockets, and folders to remove at its end."""

    lock: int
    listen: list[socket.socket]
    removable: list[Path]
    _pipe: socket.socket

    async def say_live(self) -> None:
        """Tell the predecessor that we protect; return when its place is ours.

        That is when it says so, or is gone: at once, unless it hangs. Cancelled
        before that we leave it its place.
        """
        loop = asyncio.get_running_loop()
        self._pipe.setblocking(False)
        try:
            self._pipe.send(_LIVE)
            overdue = loop.call_later(_PATIENCE, self._complain)
            try:
                await loop.sock_recv(self._pipe, len(_YOURS))
            finally:
                overdue.cancel()
        except OSError:
            pass  # gone already
        finally:
            self._pipe.close()

    def _complain(self) -> None:
        log.warning(
            "the old daemon (pid %d) does not answer, and keeps its place and its workers"
            " (look at it, then end it: kill -KILL %d)",
            *[_peer(self._pipe).pid] * 2,
        )


def take(paths: Paths) -> Inheritance:
    """Ask the running daemon for its place. Raises `UnreachableError` if there is none."""
    pipe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe.settimeout(_ANSWER)
    try:
        pipe.connect(str(paths.handover))
        data, found, _flags, _address = socket.recv_fds(pipe, _LARGEST, _MOST_SOCKETS)
        for each in found:  # recv_fds takes MSG_CMSG_CLOEXEC, and ignores it
            os.set_inheritable(each, False)
        told = json.loads(data)
    except (OSError, ValueError) as error:
        pipe.close()
        raise UnreachableError(
            f"no daemon gives its place at {paths.handover}: {error} (start without --take-over)"
        ) from error
    if "refused" in told:
        pipe.close()
        raise RefusedError(str(told["refused"]))
    if len(found) < 2:
        pipe.close()
        raise HostError("take over", "the daemon sent no sockets", "stop it, and start anew")
    lock, *listen = found
    return Inheritance(
        lock=lock,
        listen=[socket.socket(fileno=each) for each in listen],
        removable=[Path(each) for each in told["removable"]],
        _pipe=pipe,
    )


class Offer:
    """Our place, offered while the block runs. `taken` is told when a successor protects."""

    def __init__(self, paths: Paths, gift: Gift, taken: Callable[[], None]) -> None:
        self._path = paths.handover
        self._gift = gift
        self._taken = taken
        self._pipes: list[socket.socket] = []
        self._listening = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        self._bound = 0

    @property
    def pending(self) -> bool:
        """Whether a successor has our lock and sockets, and may be gone live any moment."""
        return bool(self._pipes)

    async def __aenter__(self) -> None:
        """Bind where only root may connect."""
        before = os.umask(0o177)
        try:
            make_room(self._path)  # we hold the instance's lock
            self._listening.bind(str(self._path))
        except OSError as error:
            self._listening.close()
            raise HostError(f"bind {self._path}", str(error), "is there room?") from error
        finally:
            os.umask(before)
        self._listening.listen(1)
        self._bound = self._path.stat().st_ino
        asyncio.get_running_loop().add_reader(self._listening, self._asked)

    async def __aexit__(self, *_: object) -> None:
        """Withdraw the offer. A successor's own socket at the path is left alone."""
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._bound:
                self._path.unlink()

    def _asked(self) -> None:
        with contextlib.suppress(OSError):
            pipe, _ = self._listening.accept()
            if _peer(pipe).uid != 0:
                pipe.close()
                return
            pipe.setblocking(False)
            if self._pipes:  # both would think that the place is theirs
                _refuse(pipe, "another successor is about to take over (wait for it)")
                return
            try:
                descriptors, removable = self._gift()
            except RefusedError as error:
                _refuse(pipe, str(error))
                return
            message = json.dumps({"removable": [str(each) for each in removable]}).encode()
            socket.send_fds(pipe, [message], descriptors)
            self._pipes.append(pipe)
            asyncio.get_running_loop().add_reader(pipe, self._answered, pipe)

    def _answered(self, pipe: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(pipe)
        said = b""
        with contextlib.suppress(OSError):
            said = pipe.recv(16)
        if said == _LIVE and _told(pipe, _YOURS):
            self._taken()  # the pipe stays, so that nobody else asks
        else:
            self._pipes.remove(pipe)
            pipe.close()


def _told(pipe: socket.socket, what: bytes) -> bool:
    """Return whether there is still somebody whom that could be told."""
    try:
        return pipe.send(what, socket.MSG_NOSIGNAL) > 0
    except OSError:
        return False


def _refuse(pipe: socket.socket, why: str) -> None:
    with pipe:
        pipe.send(json.dumps({"refused": why}).encode())


class _Peer(NamedTuple):
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    gid: int


def _peer(pipe: socket.socket) -> _Peer:
    credentials = pipe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _Peer(*_CREDENTIALS.unpack(credentials))
