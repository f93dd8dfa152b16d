"""webguard-sentry: makes the self-test's connections, and tidies up after the daemon.

It lives in a cgroup of its own which the redirect matches like a container's,
so what it connects to shows whether the redirect works. It is the one process
that does not die with the daemon: at the end of its pipe (the daemon stopped,
crashed or was killed) it removes what the kernel does not remove by itself.
It is started before any of that is made, so that death during start-up is no
exception.

Self-contained and standard library only: it is run by path with `-I -S`, is
root, and must work when everything else is broken.
"""

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_CAP_DAC_OVERRIDE = 1
# A line is a question of a few dozen bytes; the daemon sends nothing else.
_LONGEST = 4096
ANOTHERS = "taken by another daemon's worker"
"""How a connection ends that was not our worker's to accept: see addons.listener."""
# EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, EAFNOSUPPORT
_NO_ROUTE = (99, 101, 113, 97)


def probe(host: str, port: int, timeout: float) -> dict[str, Any]:
    """Connect, and tell from which port and how it ended. At most `timeout` seconds.

    The port is told even when nobody answers: a worker reports the ports it saw.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            code = connection.connect_ex((host, port))
            local = connection.getsockname()[1]
            if code in _NO_ROUTE:  # at once: this host's own word, not somebody's on the way
                return {"port": 0, "ended": "no route"}
            if code == 115:  # EINPROGRESS
                waiting = select.poll()
                waiting.register(connection, select.POLLOUT)
                if waiting.poll(timeout * 1000):
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                else:
                    return {"port": local, "ended": "no answer"}
            ended = os.strerror(code) if code else _ended(connection, timeout)
        except OSError as error:
            return {"port": 0, "ended": str(error)}
        return {"port": local, "ended": ended}


def _ended(connection: socket.socket, timeout: float) -> str:
    """Hold it until a worker has looked at it, and return what that made of it.

    The worker asks the kernel whose socket this is, and ends it when it knows.
    """
    waiting = select.poll()
    waiting.register(connection, select.POLLIN | select.POLLRDHUP)
    if not waiting.poll(timeout * 1000):
        return "connected, then silence"
    try:
        return "connected" if connection.recv(1) else ANOTHERS
    except ConnectionResetError:
        return "connected"


def enter(cgroup: str) -> dict[str, Any]:
    """Live in this cgroup from now on."""
    try:
        (Path(cgroup) / "cgroup.procs").write_text("0")
    except OSError as error:
        return {"ready": False, "ended": str(error)}
    return {"ready": True}


def tidy(home: str, unlink: list[str], rmdir: list[str]) -> None:
    """Go home, remove these files and then these folders. Never fails."""
    with contextlib.suppress(OSError):
        (Path(home) / "cgroup.procs").write_text("0")
    for name in unlink:
        with contextlib.suppress(OSError):
            Path(name).unlink()
    for name in rmdir:
        for _attempt in range(20):
            try:
                Path(name).rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != 16:  # EBUSY: a process in it is still ending
                    break
                time.sleep(0.05)
            else:
                break


def serve(pipe: socket.socket, task: dict[str, Any]) -> bool:
    """Answer until the pipe ends; return whether the daemon said goodbye first.

    What is to be removed is told before the daemon makes it, where that can be.
    """
    while question := pipe.recv(_LONGEST):
        asked = json.loads(question)
        if "goodbye" in asked:
            return True
        if "enter" in asked:
            task["rmdir"] = [*asked["rmdir"], *task["rmdir"]]
            said = enter(asked["enter"])
        elif "tidy" in asked:
            task |= asked["tidy"]
            said = {"ready": True}
        else:
            said = probe(asked["host"], asked["port"], asked["timeout"])
        pipe.send(json.dumps({**said, "number": asked["number"]}).encode())
    return False


def shed() -> None:
    """Give up every capability but one: the root of the cgroup tree is read-only even to root."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    kept = 1 << _CAP_DAC_OVERRIDE
    # Header of the third version, for ourselves; effective, permitted, inheritable, twice.
    libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def main() -> None:
    """Serve questions on the inherited socket until it ends, then tidy up.

    Arguments: the socket's descriptor, and a JSON object with `home` (the cgroup
    to go to at the end), and `unlink` and `rmdir`: what to remove if the daemon
    dies. After a goodbye the daemon does that itself. Besides the socket we
    inherit the instance's lock, so that nobody starts before we are done.
    """
    pipe = socket.socket(fileno=int(sys.argv[1]))
    task = json.loads(sys.argv[2])
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -5)  # a late self-test looks like a broken redirect
    shed()
    orderly = False
    try:
        orderly = serve(pipe, task)
    except OSError:
        pass  # the daemon is gone in the middle of a sentence
    finally:
        if orderly:
            tidy(task["home"], [], [])
        else:
            tidy(task["home"], task["unlink"], task["rmdir"])


if __name__ == "__main__":
    main()
