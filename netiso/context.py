"""One libnftables context and the socket inside it, which owns the tables it makes.

A table with the `owner` flag lives as long as a netlink socket, and only that
socket may change it. So the context lives as long as the daemon, and the same
socket, found among our descriptors, sends what nft's language cannot say.

Not for several threads at once: libnftables contexts are not.
"""

import ctypes
import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from netiso.netlink import Request, transact
from webguard.errors import HostError

_LIBRARY = "libnftables.so.1"
_NETLINK_NETFILTER = 12


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise HostError(
            f"load {_LIBRARY}", str(error), "install it: apt-get install libnftables1"
        ) from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
    library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Context:
    """A libnftables context in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        library = _library()
        before = _netfilter_sockets()
        context = library.nft_ctx_new(0)
        opened = _netfilter_sockets() - before
        if len(opened) != 1:
            # Another thread opened one in the same moment: which is whose?
            library.nft_ctx_free(context)
            raise HostError(
                "open a libnftables context",
                f"{len(opened)} new netlink sockets, expected 1",
                "start webguard again; please report it if that does not help",
            )
        self._context: int | None = context
        (descriptor,) = opened
        # A child that inherits the socket keeps the redirect alive after our
        # death, and whoever listens on the proxy's port then gets the traffic.
        os.set_inheritable(descriptor, False)
        # A duplicate, not inheritable either: libnftables closes its own.
        self._socket = socket.socket(fileno=os.dup(descriptor))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    @property
    def port(self) -> int:
        """The socket's netlink port id: the kernel's name for the owner."""
        return int(self._socket.getsockname()[0])

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._context is None

    def run(self, text: str, *, rehearse: bool = False) -> str:
        """Run nft commands as one transaction; return "" or what nft said against them.

        `rehearse` asks the kernel and changes nothing.
        """
        library = _library()
        library.nft_ctx_set_dry_run(self._context, rehearse)
        if not library.nft_run_cmd_from_buffer(self._context, text.encode()):
            return ""
        said: bytes = library.nft_ctx_get_error_buffer(self._context) or b""
        return said.decode(errors="replace").strip() or "nft refused without saying why"

    def transact(self, requests: Sequence[Request]) -> None:
        """Send netlink requests as one transaction of the owner. Raises `OSError`."""
        transact(self._socket, requests)

    def close(self) -> None:
        """Close the socket; the kernel removes the owned tables that do not persist."""
        if self._context:
            _library().nft_ctx_free(self._context)
            self._context = None
        self._socket.close()


def _netfilter_sockets() -> set[int]:
    """Return the descriptors of our process that are netfilter sockets."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = entry.readlink().name
        except OSError:
            continue  # the descriptor of this very listing
        if target.startswith("socket:["):
            descriptor = int(entry.name)
            if _is_netfilter(descriptor):
                found.add(descriptor)
    return found


def _is_netfilter(descriptor: int) -> bool:
    try:
        # On a duplicate: the object closes what it is given.
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            return sock.family == socket.AF_NETLINK and sock.proto == _NETLINK_NETFILTER
    except OSError:
        return False
