"""Make the test host's namespaces and hold them open: a script, run by path with `-I -S`.

    holder.py PARENT INSTALLED

Everything that a test changes outside the network is changed on a tmpfs that dies
with this process: /run, and overlays on /etc (service users), /opt (the product)
and /var/lib (its state, a private dockerd's data). INSTALLED is a folder to show
read-only under /opt/webguard's own overlay, or "-".
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_STATE = Path("/run/.test-host")

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind} on {target}: {os.strerror(number)}")


def _overlay(target: str, lower: str) -> None:
    upper = _STATE / target.strip("/").replace("/", "-")
    for part in ("upper", "work"):
        (upper / part).mkdir(parents=True)
    _mount(
        "overlay",
        target,
        "overlay",
        options=f"lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work",
    )


def main(parent: int, installed: str) -> None:
    """Print "ready" once all is in place, then wait for the end."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.umask(0o022)
    os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
    # Before anything else: nothing mounted from here on may reach the machine.
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/run", "tmpfs", options="mode=755,size=4g")
    _STATE.mkdir(mode=0o700)
    Path("/run/lock").mkdir(mode=0o1777)
    for target in ("/etc", "/opt", "/var/lib"):
        _overlay(target, target)
    if installed != "-":
        Path("/opt/webguard").mkdir(exist_ok=True)
        _overlay("/opt/webguard", installed)
    Path("/var/lib/docker").mkdir(exist_ok=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
