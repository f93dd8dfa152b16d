"""Ask the kernel which interfaces there are, and hear when that changes. By rtnetlink.

Facts only: `netiso.isolation` says what they mean. Numbers are from
linux/rtnetlink.h, linux/if_link.h and linux/net_namespace.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from netiso.isolation import Link, Reach
from netiso.netlink import ask, attribute, attributes, dump_whole, string
from webguard.errors import HostError

_NETLINK_ROUTE = 0
_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_GET_ROUTE, _GET_NAMESPACE = 26, 90
_LINK_GROUP, _IPV4_ROUTES, _IPV6_ROUTES = 1, 0x40, 0x400  # RTMGRP_*

_LINK_HEADER = struct.Struct("=BxHiII")
_ROUTE_HEADER = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")
_NAMESPACE_HEADER = bytes(4)
_NAME, _LINK, _MASTER, _INFO, _LINK_NAMESPACE, _TARGET = 3, 5, 10, 18, 37, 46  # IFLA_*
_EXTENT, _NO_STATISTICS = 29, 8
_KIND = 1  # IFLA_INFO_KIND
_OUTGOING, _MULTIPATH, _TABLE = 4, 9, 15  # RTA_*
_MAIN, _UNICAST = 254, 1
_NAMESPACE_ID, _NAMESPACE_PID = 1, 2  # NETNSA_*

_BUFFER = 1 << 16
_LISTING = 1 << 16  # a container may make interfaces without end
# One drain reads at most this often; what is left is read next time.
_READS = 256


def read_links() -> tuple[Link, ...]:
    """Return the interfaces of this network namespace. Raises `HostError`."""
    routed = _default_routes()
    return tuple(replace(link, default_route=link.index in routed) for link in _links())


def reach_of(pid: int, links: Iterable[Link]) -> Reach:
    """Return how the network namespace of a process is connected to ours.

    `links` are ours. Raises `HostError`; `ProcessLookupError` when the process is gone.
    """
    known = {link.index: link for link in links}
    namespace = _namespace_id(pid)
    if namespace < 0:
        # The kernel numbers a namespace when an interface of ours leads there.
        return Reach(elsewhere=_names(pid))
    here, elsewhere = [], []
    for inside in _links(namespace):
        if inside.name == "lo":
            continue
        outside = known.get(inside.peer)
        # Only if the other end says the same: an index means nothing in another namespace.
        if outside and outside.peer == inside.index and outside.namespace == namespace:
            here.append(outside.name)
        else:
            elsewhere.append(inside.name)
    return Reach(here=tuple(here), elsewhere=tuple(elsewhere))


class LinkWatch:
    """Hear at once when an interface, or a route, comes, changes or goes."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_ROUTE
        )
        self._socket.bind((0, _LINK_GROUP | _IPV4_ROUTES | _IPV6_ROUTES))

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read what there is; return whether `read_links` may say something new."""
        heard = False
        for _ in range(_READS):
            try:
                self._socket.recv(_BUFFER)
            except BlockingIOError:
                return heard
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            heard = True
        return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _names(pid: int) -> tuple[str, ...]:
    """Return the names of all interfaces but loopback in a process's namespace."""
    try:
        with Path(f"/proc/{pid}/net/dev").open(errors="surrogateescape") as file:
            lines = file.read(_LISTING).splitlines()[2:]  # two lines of headings
    except OSError as error:
        raise ProcessLookupError(error.errno, f"process {pid} is gone") from error
    names = (line.partition(":")[0].strip() for line in lines)
    return tuple(name for name in names if name and name != "lo")


def _links(namespace: int = -1) -> tuple[Link, ...]:
    """Read the interfaces of our namespace, or of another one by our number for it."""
    asked = _LINK_HEADER.pack(0, 0, 0, 0, 0)
    asked += attribute(_EXTENT, struct.pack("=I", _NO_STATISTICS))
    if namespace >= 0:
        asked += attribute(_TARGET, struct.pack("=i", namespace))
    return tuple(_link(body) for body in _dump(_GET_LINK, asked))


def _link(body: bytes) -> Link:
    index = _LINK_HEADER.unpack_from(body)[2]
    fields = dict(attributes(body[_LINK_HEADER.size :]))
    info = dict(attributes(fields.get(_INFO, b"")))
    kind = string(info.get(_KIND, b""))
    return Link(
        index=index,
        name=os.fsdecode(fields.get(_NAME, b"").rstrip(b"\0")),
        kind=kind,
        master=_number(fields, _MASTER, 0),
        peer=_number(fields, _LINK, 0),
        namespace=_number(fields, _LINK_NAMESPACE, -1),
    )


def _default_routes() -> frozenset[int]:
    """Return the indexes of the interfaces that a default route of the main table uses."""
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(_GET_ROUTE, _ROUTE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, length, _, _, table, _, _, kind, _ = _ROUTE_HEADER.unpack_from(body)
            fields = dict(attributes(body[_ROUTE_HEADER.size :]))
            if length == 0 and kind == _UNICAST and _number(fields, _TABLE, table) == _MAIN:
                found.add(_number(fields, _OUTGOING, 0))
                found.update(_next_hops(fields.get(_MULTIPATH, b"")))
    return frozenset(found - {0})


def _next_hops(payload: bytes) -> list[int]:
    found, at = [], 0
    while at + _NEXT_HOP.size <= len(payload):
        size, _, _, index = _NEXT_HOP.unpack_from(payload, at)
        if size < _NEXT_HOP.size:
            break
        found.append(index)
        at += (size + 3) & ~3
    return found


def _namespace_id(pid: int) -> int:
    asked = _NAMESPACE_HEADER + attribute(_NAMESPACE_PID, struct.pack("=I", pid))
    try:
        body = ask(_NETLINK_ROUTE, _GET_NAMESPACE, asked)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise ProcessLookupError(error.errno, f"process {pid} is gone") from error
        raise _unreadable(error) from error
    return _number(dict(attributes(body[len(_NAMESPACE_HEADER) :])), _NAMESPACE_ID, -1)


def _dump(kind: int, payload: bytes) -> list[bytes]:
    try:
        return dump_whole(_NETLINK_ROUTE, kind, payload)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> HostError:
    return HostError(
        "read the network interfaces", str(error), "run as root; is rtnetlink restricted?"
    )


def _number(fields: Mapping[int, bytes], kind: int, default: int) -> int:
    payload = fields.get(kind, b"")
    return int(struct.unpack_from("=i", payload)[0]) if len(payload) >= 4 else default
