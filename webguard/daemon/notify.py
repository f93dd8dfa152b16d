"""Tell systemd how we are, without a library: sd_notify(3) is one datagram."""

import contextlib
import os
import socket


def notify(*lines: str) -> None:
    """Send lines such as "READY=1" to the service manager, if there is one. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # "@" stands for the abstract namespace's leading NUL.
        sender.connect("\0" + address[1:] if address[0] == "@" else address)
        sender.send("\n".join(lines).encode())
