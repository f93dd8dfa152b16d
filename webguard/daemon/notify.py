"""Tell systemd how we are, without a library: sd_notify(3) is one datagram."""

import contextlib
import os
import signal
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


def ending() -> tuple[signal.Signals, ...]:
    """Return the signals that tell us to end in order: a terminal that is gone is one of them.

    Not where the caller has us ignore that, as nohup(1) does.
    """
    hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangup else []))
