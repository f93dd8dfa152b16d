"""Speak to nf_tables in netlink's own words: frames, attributes, one transaction, one dump.

Only for what libnftables cannot do: the persist flag, set elements by cgroup
id instead of by path, and reading the state back without a printer between.
Numbers are from linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h.
"""

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

INET = 1  # NFPROTO_INET
BRIDGE = 7  # NFPROTO_BRIDGE
TABLES_GROUP = 7  # NFNLGRP_NFTABLES

_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x400
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the tables changed while they were dumped
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 1 << 18  # a dump's message is at most 32 KiB; acknowledgements are smaller
_PATIENCE = 2.0  # seconds; the kernel answers while we send, so this is for a broken one
_DUMP_TRIES = 20

type Message = tuple[int, int, bytes]
"""Message type within nf_tables, sender's port id, attributes."""

type Request = tuple["Kind", bytes] | tuple["Kind", bytes, int]
"""What to do, attributes, and the table's family if that is not inet."""


class Kind(IntEnum):
    """NFT_MSG_*: the messages we send or read."""

    NEW_TABLE = 0
    GET_TABLE = 1
    DELETE_TABLE = 2
    NEW_CHAIN = 3
    GET_CHAIN = 4
    GET_RULE = 7
    GET_SET = 10
    NEW_ELEMENTS = 12
    GET_ELEMENTS = 13
    DELETE_ELEMENTS = 14


def attribute(kind: int, payload: bytes, *, nested: bool = False) -> bytes:
    """Return one attribute, padded."""
    size = _ATTRIBUTE.size + len(payload)
    head = _ATTRIBUTE.pack(size, kind | (_NESTED if nested else 0))
    return head + payload + bytes(-size % 4)


def text(kind: int, value: str) -> bytes:
    """Return a string attribute."""
    return attribute(kind, value.encode() + b"\0")


def attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and payload of each attribute; stops where the bytes make no sense."""
    at = 0
    while at + _ATTRIBUTE.size <= len(payload):
        size, kind = _ATTRIBUTE.unpack_from(payload, at)
        if size < _ATTRIBUTE.size or at + size > len(payload):
            return
        yield kind & _TYPE_MASK, payload[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def string(payload: bytes) -> str:
    """Read a string attribute. Table names are other programs' text."""
    return payload.rstrip(b"\0").decode(errors="replace")


def transact(sock: socket.socket, requests: Sequence[Request]) -> None:
    """Send `requests` over `sock` as one transaction: all of them happen, or none.

    Raises `OSError` with the kernel's first refusal. The socket's blocking
    mode is left alone: libnftables shares it, and hangs if it is changed.
    """
    _discard(sock)
    frames = [_frame(_BATCH_BEGIN, _REQUEST, 0, 0, _NFTABLES)]
    for number, (kind, body, *named) in enumerate(requests, 1):
        flags = _REQUEST | _ACK | (_CREATE if kind in _CREATING else 0)
        family = named[0] if named else INET
        frames.append(_frame(_NFTABLES << 8 | kind, flags, number, family, 0, body))
    frames.append(_frame(_BATCH_END, _REQUEST, len(requests) + 1, 0, _NFTABLES))
    sock.send(b"".join(frames))
    waiting = set(range(1, len(requests) + 1))
    while waiting:
        for said, _flags, sequence, _sender, body in _receive(sock):
            if said != _ERROR:
                continue
            if code := struct.unpack_from("=i", body)[0]:
                _discard(sock)
                raise OSError(-code, os.strerror(-code))
            waiting.discard(sequence)


_CREATING = (Kind.NEW_TABLE, Kind.NEW_ELEMENTS)


def dump(kind: Kind, body: bytes = b"", *, family: int = INET) -> list[bytes]:
    """Return the attributes of every object of a kind, all from one moment.

    Raises `OSError`: ENOENT when the table that `body` names does not exist.
    """
    asked = _FAMILY.pack(family, 0, 0) + body
    found = dump_whole(_NETLINK_NETFILTER, _NFTABLES << 8 | kind, asked)
    return [each[_FAMILY.size :] for each in found]


def dump_whole(protocol: int, kind: int, payload: bytes) -> list[bytes]:
    """Return every object of a kind, fixed header included, all from one moment.

    For any netlink protocol. Raises `OSError`.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.bind((0, 0))
        for attempt in range(_DUMP_TRIES):
            sock.send(_message(kind, _REQUEST | _DUMP, attempt, payload))
            if (found := _collect(sock, attempt)) is not None:
                return found
    raise OSError(errno.EINTR, "the tables change faster than they can be read")


def ask(protocol: int, kind: int, payload: bytes) -> bytes:
    """Return the one object that a question is about, fixed header included. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.bind((0, 0))
        sock.send(_message(kind, _REQUEST, 1, payload))
        for said, _flags, _sequence, _sender, body in _receive(sock):
            if said == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, os.strerror(code))
            return body
    raise OSError(errno.ENODATA, "the kernel answered with nothing")


def subscribe() -> socket.socket:
    """Return a socket that hears of every change of any table in this network namespace."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    sock.bind((0, 0))
    sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, TABLES_GROUP)
    return sock


def heard(sock: socket.socket) -> list[Message]:
    """Return the changes that one read of a `subscribe`d socket gives.

    Raises `BlockingIOError` when there are none, `OSError` (ENOBUFS) when some were lost.
    """
    return [
        (kind & 0xFF, sender, body[_FAMILY.size :])
        for kind, _flags, _sequence, sender, body in _split(sock.recv(_BUFFER))
        if kind >> 8 == _NFTABLES
    ]


def _collect(sock: socket.socket, wanted: int) -> list[bytes] | None:
    """Read a dump to its end; None if the tables changed meanwhile."""
    found: list[bytes] = []
    interrupted = False
    while True:
        for kind, flags, sequence, _sender, body in _receive(sock):
            if sequence != wanted:
                continue
            interrupted |= bool(flags & _INTERRUPTED)
            if kind in (_DONE, _ERROR):
                code = struct.unpack_from("=i", body)[0]
                if code and -code != errno.EINTR:
                    raise OSError(-code, os.strerror(-code))
                return None if interrupted or code else found
            found.append(body)


def _frame(
    kind: int, flags: int, sequence: int, family: int, resource: int, body: bytes = b""
) -> bytes:
    return _message(kind, flags, sequence, _FAMILY.pack(family, 0, socket.htons(resource)) + body)


def _message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def _receive(sock: socket.socket) -> Iterator[tuple[int, int, int, int, bytes]]:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(_PATIENCE * 1000):
        raise OSError(errno.ETIMEDOUT, "the kernel did not answer")
    return _split(sock.recv(_BUFFER))


def _split(received: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(received):
        size, kind, flags, sequence, sender = _HEADER.unpack_from(received, at)
        if size < _HEADER.size or at + size > len(received):
            return
        yield kind, flags, sequence, sender, received[at + _HEADER.size : at + size]
        at += (size + 3) & ~3


def _discard(sock: socket.socket) -> None:
    """Throw away what is still unread, so that no old answer is taken for a new one."""
    while True:
        try:
            sock.recv(_BUFFER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:  # ENOBUFS says that answers were lost: old ones
            if error.errno != errno.ENOBUFS:
                raise
