"""Change the daemon's tables through the daemon's own socket: nobody else's may."""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from netiso import kernel_state
from netiso.netlink import Kind, attribute, text, transact

_PIDFD_GETFD = 438
_NETLINK_NETFILTER = 12
# NFT_MSG_DELRULE. The product has no word for it: its rules never change.
_DELETE_RULE = cast("Kind", 8)


class Owner:
    """The tables of a daemon, and the power over them."""

    def __init__(self, daemon: int) -> None:
        self._daemon = daemon

    def elements(self, table: str, name: str) -> frozenset[bytes]:
        """The keys in a set."""
        with _inside(self._daemon):
            state = kernel_state.read(self._table(table))
        assert state is not None
        return state.sets[name]

    def change(self, table: str, name: str, keys: frozenset[bytes], *, remove: bool) -> None:
        """Remove elements from a set, or add them."""
        elements = b"".join(
            attribute(1, attribute(1, attribute(1, key), nested=True), nested=True) for key in keys
        )
        kind = Kind.DELETE_ELEMENTS if remove else Kind.NEW_ELEMENTS
        self._do(kind, table, text(2, name) + attribute(3, elements, nested=True))

    def delete_rules(self, table: str, chain: str) -> None:
        """Remove all rules of a chain."""
        self._do(_DELETE_RULE, table, text(2, chain))

    def _do(self, kind: Kind, table: str, body: bytes) -> None:
        with _inside(self._daemon):
            name = self._table(table)
            port = next(each.owner for each in kernel_state.read_tables() if each.name == name)
            with _netfilter_socket(self._daemon, port) as owning:
                transact(owning, [(kind, text(1, name) + body)])

    def _table(self, kind: str) -> str:
        (found,) = (
            each.name for each in kernel_state.read_tables() if f"webguard_{kind}_" in each.name
        )
        return found


@contextmanager
def _inside(pid: int) -> Iterator[None]:
    """The network namespace of a process, for this thread."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        os.setns(there, os.CLONE_NEWNET)
        yield
    finally:
        os.setns(home, os.CLONE_NEWNET)
        os.close(home)
        os.close(there)


def _netfilter_socket(pid: int, port: int) -> socket.socket:
    """A duplicate of the socket of `pid` with this netlink port: one socket, two descriptors."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            if not str(each.readlink()).startswith("socket:"):
                continue
            descriptor = libc.syscall(_PIDFD_GETFD, process, int(each.name), 0)
            assert descriptor >= 0, os.strerror(ctypes.get_errno())
            found = socket.socket(fileno=descriptor)
            if (found.family, found.proto) == (socket.AF_NETLINK, _NETLINK_NETFILTER) and (
                found.getsockname()[0] == port
            ):
                return found
            found.close()
    finally:
        os.close(process)
    raise AssertionError(f"process {pid} has no netfilter socket with port {port}")


def key(number: int) -> bytes:
    """A cgroup id as an element of a set."""
    return struct.pack("=Q", number)
