"""A container's attempt on others' connections: a script that wants the proxy's port.

    thief.py PORT

Tries to listen on every address that a redirect may lead to, again and again,
and prints a line for each success, and one for each connection that it was given.
"""

import contextlib
import select
import socket
import sys
import time

_ADDRESSES = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET, "0.0.0.0"),
    (socket.AF_INET6, "::"),
)


def main(port: int) -> None:
    """Until it is killed."""
    listening: dict[socket.socket, str] = {}
    while True:
        for family, address in _ADDRESSES:
            if address not in listening.values():
                with contextlib.suppress(OSError):
                    listening[_listen(family, address, port)] = address
                    sys.stdout.write(f"listens {address}\n")
        ready, _, _ = select.select(list(listening), [], [], 0.001)
        for each in ready:
            connection, peer = each.accept()
            sys.stdout.write(f"got {peer} {connection.getsockname()}\n")
            connection.close()
        sys.stdout.flush()
        if not listening:
            time.sleep(0.0005)


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(128)
    except OSError:
        made.close()
        raise
    return made


if __name__ == "__main__":
    main(int(sys.argv[1]))
