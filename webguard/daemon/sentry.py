"""webguard-sentry: makes the self-test's connections, and tidies up after the daemon.

It lives in a cgroup of its own which the redirect matches like a container's,
so what it connects to shows whether the redirect works. It is the one process
that does not die with the daemon: at the end of its pipe (the daemon stopped,
crashed or was killed) it removes what the kernel does not remove by itself.

Self-contained and standard library only: it is run by path with `-I -S`, is
root, and must work when everything else is broken.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

# A line is a question of a few dozen bytes; the daemon sends nothing else.
_LONGEST = 4096


def probe(host: str, port: int, timeout: float) -> dict[str, Any]:
    """Connect, and tell from which port and how it ended. At most `timeout` seconds.

    The port is told even when nobody answers: a worker reports the ports it saw.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        ended = "connected"
        try:
            code = connection.connect_ex((host, port))
            local = connection.getsockname()[1]
            if code == 115:  # EINPROGRESS
                waiting = select.poll()
                waiting.register(connection, select.POLLOUT)
                if waiting.poll(timeout * 1000):
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                else:
                    return {"port": local, "ended": "no answer"}
            if code:
                ended = os.strerror(code)
            else:
                # Hold the connection until the worker has looked at it: it asks the kernel
                # whose socket this is, and closes it when it knows.
                waiting = select.poll()
                waiting.register(connection, select.POLLIN | select.POLLRDHUP)
                if not waiting.poll(timeout * 1000):
                    ended = "connected, then silence"
        except OSError as error:
            return {"port": 0, "ended": str(error)}
        return {"port": local, "ended": ended}


def tidy(task: dict[str, Any], home: Path) -> None:
    """Remove what the daemon leaves: our cgroup, parents it made, its socket. Never fails."""
    with contextlib.suppress(OSError):
        (home / "cgroup.procs").write_text("0")
    for name in task["unlink"]:
        with contextlib.suppress(OSError):
            Path(name).unlink()
    for name in task["rmdir"]:
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


def main() -> None:
    """Serve questions on the inherited socket until it ends, then tidy up.

    Arguments: the socket's descriptor, and a JSON object with `cgroup` (to live
    in), `home` (to go to at the end), `rmdir` and `unlink`.
    """
    pipe = socket.socket(fileno=int(sys.argv[1]))
    task = json.loads(sys.argv[2])
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -5)  # a late self-test looks like a broken redirect
    try:
        (Path(task["cgroup"]) / "cgroup.procs").write_text("0")
        pipe.send(b'{"ready": true}')
        while question := pipe.recv(_LONGEST):
            asked = json.loads(question)
            pipe.send(json.dumps(probe(asked["host"], asked["port"], asked["timeout"])).encode())
    except OSError:
        pass  # the daemon is gone in the middle of a sentence
    finally:
        tidy(task, Path(task["home"]))


if __name__ == "__main__":
    main()
