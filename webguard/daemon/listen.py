"""Bind the sockets that all workers accept on: the supervisor's, so that nobody can join them."""

import errno
import socket

from webguard.errors import HostError


def bind(port: int) -> list[socket.socket]:
    """Return listening sockets on loopback, IPv4 and (where the host has it) IPv6."""
    sockets: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        each = socket.socket(family, socket.SOCK_STREAM)
        # Plain: with SO_REUSEPORT a container that has a service user's uid could join (ADR 0002).
        # SO_REUSEADDR alone only skips the wait for old connections of ours to be forgotten.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((address, port))
            each.listen(4096)
        except OSError as error:
            each.close()
            if family == socket.AF_INET6 and error.errno in (
                errno.EADDRNOTAVAIL,
                errno.EAFNOSUPPORT,
            ):
                continue  # IPv6 is off on this host, so there is none to inspect
            for other in sockets:
                other.close()
            raise HostError(
                f"listen on port {port} of {address}",
                error.strerror or str(error),
                f"stop what uses it (ss -ltnp 'sport = :{port}'), or set web.listen_port",
            ) from error
        sockets.append(each)
    return sockets
