"""Messages between our processes: one closed set, validated on arrival.

The pipe is an inherited AF_UNIX SOCK_SEQPACKET pair: the kernel keeps message
boundaries, so a process that dies in the middle of one cannot shift the frame
of the next, and its successor can go on with the same pair.

Workers read hostile traffic and may one day be taken over: whatever they send
is bounded and validated here, and nothing of it is ever a path or a command.
"""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from webguard.model import Container, Event, ScanResult

LARGEST = 128 * 1024
"""Bytes in one message. Half of Linux's default socket buffer (net.core.wmem_default)."""


# A number that does not fit where it goes raises there: in struct, ctypes, SQLite or datetime.
type _Number = Annotated[int, Field(ge=0, lt=2**63)]
type _Cgroup = Annotated[int, Field(ge=0, lt=2**64)]


def _bounded(event: Event) -> Event:
    """Return the event if its numbers fit. Its class is the words', which know no pydantic."""
    if not 0 <= event.at < 2**63:
        raise ValueError("no time")
    if not all(-1 <= each < 2**64 for each in _numbers(event)):  # -1: a user id that is not known
        raise ValueError("a number that fits nowhere")
    return event


def _numbers(value: object) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _numbers(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _numbers(getattr(value, field.name))


class _Message(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64"
    )


class Ready(_Message):
    """A child has started and can serve. From the signer with the CA's certificate."""

    type: Literal["ready"] = "ready"
    certificate: bytes = b""


class Failed(_Message):
    """A child cannot start, for a reason that the operator can mend."""

    type: Literal["failed"] = "failed"
    message: str = Field(max_length=4000)


class Configure(_Message):
    """Daemon to worker, with three descriptors (settings, rules, roots): work by these from now."""

    type: Literal["configure"] = "configure"
    generation: _Number


class Applied(_Message):
    """Worker to daemon: every request from now on is judged by this generation."""

    type: Literal["applied"] = "applied"
    generation: _Number
    problem: str = Field(default="", max_length=4000)


class Drain(_Message):
    """Daemon to worker: accept nothing more, finish what is open, and end."""

    type: Literal["drain"] = "drain"
    seconds: float


class Cut(_Message):
    """Daemon to worker: end every connection now, because isolation begins."""

    type: Literal["cut"] = "cut"


class Known(_Message):
    """Daemon to worker: these cgroups are this container's (or: it has gone)."""

    type: Literal["known"] = "known"
    cgroups: tuple[_Cgroup, ...]
    container: Container
    gone: bool = False


class Resolve(_Message):
    """Worker to daemon: the question whose cgroup this is."""

    type: Literal["resolve"] = "resolve"
    cgroup: _Cgroup


class Resolved(_Message):
    """Daemon to worker: the answer, None for nobody's."""

    type: Literal["resolved"] = "resolved"
    cgroup: _Cgroup
    container: Container | None


class Probed(_Message):
    """Worker to daemon: a self-test connection from this port came through the redirect."""

    type: Literal["probed"] = "probed"
    port: int = Field(ge=0, le=65535)
    host: str = Field(max_length=64)


class Handshake(_Message):
    """Worker to daemon: a client in this container has accepted a leaf of ours."""

    type: Literal["handshake"] = "handshake"
    runtime: str = Field(max_length=64)
    id: str = Field(max_length=128)
    started: _Number


class Happened(_Message):
    """Worker to daemon: an event to record."""

    type: Literal["happened"] = "happened"
    event: Annotated[Event, AfterValidator(_bounded)]


class Lost(_Message):
    """Worker to daemon: so many events could not be sent, because you did not read."""

    type: Literal["lost"] = "lost"
    count: _Number


class Count(_Message):
    """Worker to daemon, every second: what was accepted so far."""

    type: Literal["count"] = "count"
    served: _Number
    direct: _Number
    probes: _Number
    open: _Number


class MintRequest(_Message):
    """Worker to signer."""

    type: Literal["mint"] = "mint"
    number: _Number
    names: tuple[Annotated[str, Field(max_length=255)], ...] = Field(max_length=16)
    public_key: bytes = Field(max_length=4096)
    block_page: bool = False


class Minted(_Message):
    """Signer to worker: a PEM chain, or why not."""

    type: Literal["minted"] = "minted"
    number: _Number
    chain: bytes = b""
    refused: str = ""


class Unpack(_Message):
    """Worker to scan process, with a sealed memory file: scan what is packed in it."""

    type: Literal["unpack"] = "unpack"
    number: _Number


class Unpacked(_Message):
    """Scan process to worker: what was found in it, and what was not looked at."""

    type: Literal["unpacked"] = "unpacked"
    number: _Number
    result: ScanResult


_MOST_DESCRIPTORS = 8

type Message = (
    Ready
    | Failed
    | Configure
    | Applied
    | Drain
    | Cut
    | Known
    | Resolve
    | Resolved
    | Probed
    | Handshake
    | Happened
    | Lost
    | Count
    | MintRequest
    | Minted
    | Unpack
    | Unpacked
)

# The alias' value and not the alias: with the name pydantic takes ten times as long a message.
_MESSAGES: TypeAdapter[Message] = TypeAdapter(
    Annotated[Message.__value__, Field(discriminator="type")]
)


class Channel:
    """One end of a pair. Belongs to the event loop it was made in."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send at once, or return False: the other side does not read, or is gone.

        Never blocks: a full pipe must not stop the loop that serves traffic.
        `descriptors` go with the message; the receiver gets copies.
        """
        data = _MESSAGES.dump_json(message)
        if len(data) > LARGEST:
            return False
        try:
            if descriptors:
                socket.send_fds(self._socket, [data], list(descriptors), socket.MSG_NOSIGNAL)
            else:
                self._socket.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    async def receive_with(self) -> tuple[Message, tuple[int, ...]] | None:
        """Return the next message and the descriptors with it, which are the caller's to close.

        For children only: the daemon takes no descriptors from anybody (`receive`
        leaves them to the kernel, which closes them).
        """
        await asyncio.sleep(0)
        while True:
            try:
                data, found, _flags, _address = socket.recv_fds(
                    self._socket, LARGEST + 1, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await _readable(self._socket)
                continue
            except OSError:
                return None
            if not data:
                return None
            return _MESSAGES.validate_json(data), tuple(found)

    async def receive(self) -> Message | None:
        """Return the next message, or None when the other side is gone.

        Raises `ValueError` for what is not a message of ours; the caller decides
        whether to go on with such a peer.
        """
        # With messages waiting nothing here yields: one that floods us would stop the loop.
        await asyncio.sleep(0)
        data = b""
        while not data:
            try:
                data = self._socket.recv(LARGEST + 1)
            except BlockingIOError:
                # Not sock_recv: cancelled in the wrong moment, that loses what it has read.
                await _readable(self._socket)
                continue
            except OSError:
                return None
            if not data:
                return None
        try:
            return _MESSAGES.validate_json(data)
        except ValidationError as error:
            raise ValueError(f"not a message: {error.error_count()} errors") from error

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


async def _readable(end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(end, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(end)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def inherited(descriptor: int) -> Channel:
    """Return the channel whose end we inherited under this number."""
    return Channel(socket.socket(fileno=descriptor))
