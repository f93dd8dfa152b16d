"""Read and change trust stores inside one container. Run by path, never imported by the daemon.

`python -I -S writer.py`: a request as JSON on standard input, the report as JSON
on standard output, one short-lived process for each. It and the three files it
loads (`certs.inside`, `certs.operations`, `certs.pem`) need the standard library
only, because of what happens half-way through:

- a forked child joins the container's mount namespace, and from then on "/" is
  the container's. Anything loaded late (a module, a codec, a library that
  OpenSSL's configuration names) would be the container's file, run as root
  (CVE-2019-14271). So everything is imported and used once before, then the
  import system is emptied, and the child leaves by `_exit`;
- the container's file system may never answer. The child has a deadline, then
  gets SIGKILL, and nobody waits for it: a process in a dead FUSE mount does not
  even die.

Nothing of the container is executed, by us or by anything we start.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# -I leaves our own folder out of the path. Appended: nothing there may shadow the library.
sys.path.append(str(Path(__file__).resolve().parent.parent))
from certs import operations, pem
from certs.inside import Inside

DEADLINE = 8.0  # seconds for the child; the daemon gives the whole process 10
_TEXT_LIMIT = 8 << 20  # bytes of a request, a report, or a file of /proc
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


class NotEnteredError(Exception):
    """The container as a whole is not entered: the outcome to report and the reason."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """Descriptors of the container, opened before anything was entered."""

    root: int
    mnt: int
    user: int  # the one that owns its mounts; -1: it is ours
    mounts: dict[int, tuple[str, str]]


def find(request: dict[str, Any]) -> Target:
    """Open the container's root and namespaces, then make sure that they are the container's.

    Everything is opened through one descriptor of /proc/PID, which stays the
    same process's or turns invalid: the pid may be somebody else's by now, but
    what we hold belongs to the one whose start time and cgroup are checked last.
    """
    try:
        process = os.open(f"/proc/{request['pid']}", os.O_RDONLY | os.O_DIRECTORY)
        root = os.open("root", os.O_PATH | os.O_DIRECTORY, dir_fd=process)
        mnt = os.open("ns/mnt", os.O_RDONLY, dir_fd=process)
        # The one that owns its mounts: a process may be in a user namespace below that.
        user = fcntl.ioctl(mnt, _NS_GET_USERNS)
        mounts = _mounts(_read(process, "mountinfo"))
        started = int(_read(process, "stat").rpartition(b")")[2].split()[19])
        cgroups = _cgroups(_read(process, "cgroup"))
    except (FileNotFoundError, ProcessLookupError):
        raise NotEnteredError("gone", "its first process has ended") from None
    if started != request["started"]:
        raise NotEnteredError("gone", "its pid belongs to another process by now")
    if request["cgroups"] and cgroups.isdisjoint(request["cgroups"]):
        raise NotEnteredError("gone", "its first process is in another cgroup")
    # A container that runs `nsenter --mount` or `chroot /host`: what we would change is the host.
    ours, its = Path("/").stat(), os.fstat(root)
    if _same(mnt, "/proc/self/ns/mnt") or (ours.st_dev, ours.st_ino) == (its.st_dev, its.st_ino):
        raise NotEnteredError("refused", "its file system is the host's own")
    return Target(root, mnt, -1 if _same(user, "/proc/self/ns/user") else user, mounts)


def _read(process: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=process), "rb") as file:
        return file.read(_TEXT_LIMIT)


def _same(fd: int, path: str) -> bool:
    ours, its = Path(path).stat(), os.fstat(fd)
    return (ours.st_dev, ours.st_ino) == (its.st_dev, its.st_ino)


def _mounts(mountinfo: bytes) -> dict[int, tuple[str, str]]:
    """Return mount id -> type and mount point (proc_pid_mountinfo(5); spaces are escaped)."""
    found = {}
    for line in mountinfo.splitlines():
        head, separator, tail = line.partition(b" - ")
        fields, kinds = head.split(), tail.split()
        if separator and len(fields) > 4 and kinds:
            place = fields[4].decode("ascii", "backslashreplace")
            found[int(fields[0])] = (kinds[0].decode("ascii", "backslashreplace"), place)
    return found


def _cgroups(text: bytes) -> set[int]:
    """Return the ids of a process's cgroup v2 directory and of all above it.

    Those above too: an init system moves itself to a directory below the container's.
    """
    mounts = _mounts(Path("/proc/self/mountinfo").read_bytes()).values()
    top = next((place for kind, place in mounts if kind == "cgroup2"), "")
    paths = [line[3:] for line in text.splitlines() if line.startswith(b"0::/")]
    if not top or not paths or b"/.." in paths[0]:
        return set()
    path = Path(top + os.fsdecode(paths[0]))
    levels = [level for level in (path, *path.parents) if level.is_relative_to(top)]
    return {level.stat().st_ino for level in levels if level.exists()}


def enter(target: Target) -> Inside:
    """Move this process into the container, for good. Call in a forked child only."""
    # Nothing may be imported from here on: these paths now mean the container's files.
    sys.path[:], sys.meta_path[:], sys.path_hooks[:] = [], [], []
    sys.path_importer_cache.clear()
    null, proc = os.open(os.devnull, os.O_RDWR), os.open("/proc/self", os.O_PATH)
    for standard in (0, 1, 2):  # whoever waits for our output must not wait for this child
        os.dup2(null, standard)
    os.umask(0o022)
    os.setgroups([])
    os.setns(target.mnt, os.CLONE_NEWNS)
    os.fchdir(target.root)
    whole, its = Path("/").stat(), os.fstat(target.root)
    if (whole.st_dev, whole.st_ino) != (its.st_dev, its.st_ino):
        # Its first process has a smaller root. Rare, and not allowed to the systemd unit.
        os.chroot(".")
    if target.user >= 0:
        # As its own root: from outside, a file of an unmapped owner cannot be made (EOVERFLOW).
        os.setns(target.user, os.CLONE_NEWUSER)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    _protect()  # again: a change of credentials clears both
    return Inside(target.root, proc, target.mounts)


def _protect() -> None:
    """Die with the parent, and let no process of the container attach to this one."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _rehearse() -> None:
    """Use once whatever the child will use, so that nothing is loaded inside."""
    # OpenSSL reads its configuration, and loads what that names, at the first digest.
    block = pem.block(os.urandom(64))
    pem.without(block, pem.fingerprints(block), b"#")
    json.loads(json.dumps({"text": operations.text("\udcff\u00e9"), "number": 1.5}))
    os.fsdecode(os.fsencode("/\udcff"))
    os.strerror(1)
    stat.filemode(0)


def supervise(target: Target, steps: list[dict[str, Any]]) -> bytes:
    """Do the steps in a child and return its report. Gives up after `DEADLINE` seconds."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _child(target, steps, writing)
    os.close(writing)
    pidfd, report, ends = os.pidfd_open(child), b"", time.monotonic() + DEADLINE
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while (left := ends - time.monotonic()) > 0 and poll.poll(left * 1000):
        if not (chunk := os.read(reading, 1 << 16)):
            return report
        report += chunk
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    raise NotEnteredError("refused", f"its file system did not answer within {DEADLINE:g} s")


def _child(target: Target, steps: list[dict[str, Any]], writing: int) -> NoReturn:
    """Enter, work, report, leave. Never returns: the parent's code is not for in here."""
    try:
        _protect()
        inside = enter(target)
        report: dict[str, Any] = {"stores": [operations.perform(inside, step) for step in steps]}
    except BaseException as error:  # noqa: BLE001 - a traceback would read the container's files
        report = {"failed": operations.text(f"{type(error).__name__}: {error}")}
    try:
        data = json.dumps(report).encode()
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.read(_TEXT_LIMIT))
    _rehearse()
    try:
        report = supervise(find(request), request["steps"])
    except NotEnteredError as error:
        report = json.dumps({"outcome": error.outcome, "reason": error.reason}).encode()
    sys.stdout.buffer.write(report)


if __name__ == "__main__":
    main()
