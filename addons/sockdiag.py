"""Ask the kernel which cgroup a local TCP socket belongs to, without privilege.

A redirected connection comes from another socket of this network namespace.
Its owner cannot be read from the address (every host-network container has the
host's), but sock_diag(7) reports the cgroup v2 id of any socket to anybody.
The id is that of the cgroup the socket was *created* in.
"""

import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h; the socket module does not name it
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_INET_DIAG_CGROUP_ID = 21  # linux/inet_diag.h, since 5.7
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NO_COOKIE = 0xFFFFFFFF
_NLMSG = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")
_PORTS = struct.Struct("!HH")
_TAIL = struct.Struct("=III")
# inet_diag_msg: four bytes, the 48 byte socket id, five 32 bit numbers
_MESSAGE = 4 + 48 + 20
_ATTRIBUTE = struct.Struct("=HH")

type Endpoint = tuple[str, int]


class SockDiag:
    """One netlink socket for all questions of a process. Not safe across threads."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        # The kernel answers during send; a second is only there so that no bug can hang the loop.
        self._socket.settimeout(1)
        self._sequence = 0

    def cgroup_of(self, local: Endpoint, remote: Endpoint) -> int | None:
        """Return the cgroup id of the TCP socket with these ends, as that socket sees them.

        None when there is no such socket (any more), or the kernel does not say.
        """
        self._sequence += 1
        try:
            self._socket.send(question(local, remote, self._sequence))
            while True:
                answer = self._socket.recv(8192)
                if _NLMSG.unpack_from(answer)[3] == self._sequence:  # not a late answer
                    return cgroup_in(answer)
        except OSError:
            return None

    def close(self) -> None:
        """Give the netlink socket back."""
        self._socket.close()


def question(local: Endpoint, remote: Endpoint, sequence: int) -> bytes:
    """Return the request for exactly one socket."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    identity = (
        _PORTS.pack(local[1], remote[1])
        + socket.inet_pton(family, local[0]).ljust(16, b"\0")
        + socket.inet_pton(family, remote[0]).ljust(16, b"\0")
        + _TAIL.pack(0, _NO_COOKIE, _NO_COOKIE)
    )
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + identity
    length = _NLMSG.size + len(body)
    return _NLMSG.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, os.getpid()) + body


def cgroup_in(answer: bytes) -> int | None:
    """Return the cgroup id in a sock_diag answer, or None for an error or an older kernel."""
    length, kind, _flags, _sequence, _pid = _NLMSG.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY or length > len(answer):
        return None
    at = _NLMSG.size + _MESSAGE
    while at + _ATTRIBUTE.size <= length:
        size, number = _ATTRIBUTE.unpack_from(answer, at)
        if size < _ATTRIBUTE.size:
            return None
        if number == _INET_DIAG_CGROUP_ID and size == _ATTRIBUTE.size + 8:
            (found,) = struct.unpack_from("=Q", answer, at + _ATTRIBUTE.size)
            return int(found)
        at += (size + 3) & ~3
    return None
