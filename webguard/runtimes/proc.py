"""See containers as the kernel does: through cgroups and /proc, whatever the runtime.

Every runtime gives a container a cgroup of its own, whose name is its id (`place`).
That, and what /proc says about the processes below it, is true whether or not an
engine answers, so this is where identity comes from; an engine only adds names.

What is read here a container may have written: it can make cgroups below its
own, and start processes with any name. So every read is bounded.
"""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from webguard.errors import HostError
from webguard.model import Network
from webguard.runtimes.place import Layout, Place

_PROC = Path("/proc")
_MAX_READ = 64 * 1024  # a cgroup path has at most 4096 bytes, and a hybrid host has some 13 lines
_MAX_MOUNTS = 8 * 1024**2
_MAX_SUBGROUPS = 1024  # of one container; a hostile one can make as many as it likes
_MAX_MEMBERS = 4096  # of one container, oldest first: enough to find its first process


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One running container, as measured."""

    place: Place
    cgroup: int  # id of its cgroup, which is the directory's inode number
    pid: int
    started: int
    netns: int = 0
    network: Network = Network.UNKNOWN


def unified_root() -> Path:
    """Return where the cgroup v2 hierarchy is mounted, or raise `HostError`."""
    found = parse_mountinfo(_read(_PROC / "self/mountinfo", _MAX_MOUNTS))
    if found is None:
        raise HostError(
            "find the cgroup v2 hierarchy",
            "it is not mounted",
            "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        )
    return Path(found)


def own_netns() -> int:
    """Return the inode of the network namespace that is "the host" for us: our own.

    Not that of pid 1: /proc/1 may be unreadable, and a daemon in a namespace of
    its own protects that one.
    """
    return (_PROC / "self/ns/net").stat().st_ino


def containers(root: Path, own_netns: int, layout: Layout) -> tuple[Seen, ...]:
    """Return every container that has a process, in one pass over /proc.

    `root` is that of the v2 hierarchy. Blocks for some 30 us per process of the
    machine: call it in a thread.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    places: dict[str, Place] = {}
    for pid in _pids():
        known = _process(pid, layout)
        if known is None:
            continue
        started, path = known
        place = layout.locate(path)
        if place is None:
            continue
        places[place.path] = place
        found.setdefault(place.path, []).append((started, pid))
    seen = [_measure(root, places[path], found[path], own_netns) for path in found]
    for index, each in enumerate(seen):
        if each is not None and each.network is Network.UNKNOWN:
            # While it started we saw processes that have gone: see those that have come.
            seen[index] = at(root, each.place.path, own_netns, layout) or each
    return tuple(each for each in seen if each is not None)


def at(root: Path, path: str, own_netns: int, layout: Layout) -> Seen | None:
    """Return the container that the cgroup `path` (from the v2 root) belongs to.

    None if it belongs to none, or is gone. Reads that cgroup and those below
    it, not the whole of /proc, so it is quick enough to be asked while a
    connection waits.
    """
    place = layout.locate(path)
    if place is None:
        return None
    found: list[tuple[int, int]] = []
    for pid in _members(root / place.path.lstrip("/")):
        known = _process(pid, layout)
        # Between the two reads the pid may have become somebody else's.
        if known is not None and layout.locate(known[1]) == place:
            found.append((known[0], pid))
    return _measure(root, place, found, own_netns) if found else None


def parse_cgroup(content: bytes) -> str | None:
    """Return the v2 path in the content of /proc/<pid>/cgroup.

    A newline cannot be forged: the kernel refuses it in a cgroup's name.
    """
    for line in content.split(b"\n"):
        if line.startswith(b"0::/"):
            return line[3:].decode("utf-8", "surrogateescape")
    return None


def parse_started(content: bytes) -> int | None:
    """Return the start time (clock ticks since boot) in the content of /proc/<pid>/stat."""
    # The second field is the program's name in brackets, and it may hold
    # brackets, spaces and newlines: what counts comes after the last one.
    fields = content[content.rfind(b")") + 1 :].split()
    if b")" not in content or len(fields) < 20 or not re.fullmatch(rb"[0-9]{1,20}", fields[19]):
        return None
    return int(fields[19])


def parse_mountinfo(content: bytes) -> str | None:
    """Return the mount point of the cgroup v2 root in the content of /proc/<pid>/mountinfo."""
    for line in content.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        fields = before.split(b" ")
        if not separator or len(fields) < 5 or after.split(b" ")[0] != b"cgroup2":
            continue
        if fields[3] == b"/":  # not a bind mount of something further down
            return _unescape(fields[4]).decode("utf-8", "surrogateescape")
    return None


def _unescape(field: bytes) -> bytes:
    """Undo the octal numbers by which the kernel writes white space and backslash."""
    return re.sub(rb"\\([0-3][0-7]{2})", lambda found: bytes([int(found[1], 8)]), field)


def _pids() -> Iterator[int]:
    # Not bounded by us: whoever could fill a bound with processes would hide all
    # containers behind it. The kernel has one (kernel.pid_max).
    with os.scandir(_PROC) as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield int(entry.name)


def _process(pid: int, layout: Layout) -> tuple[int, str] | None:
    """Return start time and v2 path of a process, or None if it is gone."""
    try:
        # All reads through one descriptor are of one process: when it ends they
        # fail, even if the number has a new owner by then.
        folder = os.open(_PROC / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        path = parse_cgroup(_read_at(folder, "cgroup"))
        # Most processes are not in a container: spare them the second read.
        if path is None or layout.locate(path) is None:
            return None
        started = parse_started(_read_at(folder, "stat"))
    except OSError:
        return None
    finally:
        os.close(folder)
    return None if started is None else (started, path)


def _measure(root: Path, place: Place, processes: list[tuple[int, int]], own: int) -> Seen | None:
    """Return what is seen of the first of these processes (start time, pid) that still lives.

    While a container starts, its first processes are the runtime's own, and end.
    """
    try:
        cgroup = (root / place.path.lstrip("/")).stat().st_ino
    except OSError:
        return None  # it ended while we looked
    oldest_first = sorted(processes)
    for started, pid in oldest_first:
        netns = _netns(pid, started)
        if netns:
            network = Network.HOST if netns == own else Network.PRIVATE
            break
    else:
        (started, pid), netns, network = oldest_first[0], 0, Network.UNKNOWN
    return Seen(place=place, cgroup=cgroup, pid=pid, started=started, netns=netns, network=network)


def _netns(pid: int, started: int) -> int:
    """Return the inode of a process's network namespace, 0 if that process is gone."""
    try:
        netns = (_PROC / str(pid) / "ns/net").stat().st_ino
        same = parse_started(_read(_PROC / str(pid) / "stat", _MAX_READ)) == started
    except OSError:
        return 0
    return netns if same else 0


def _members(group: Path) -> Iterable[int]:
    """Return the processes in a cgroup and those below it, nearest first."""
    pids: list[int] = []
    waiting = deque([group])
    for _ in range(_MAX_SUBGROUPS):
        if not waiting or len(pids) >= _MAX_MEMBERS:
            break
        folder = waiting.popleft()
        try:
            content = _read(folder / "cgroup.procs", _MAX_READ * 8)
            pids += [int(line) for line in content.split() if line.isdigit()]
            with os.scandir(folder) as entries:
                below = (Path(each.path) for each in entries if each.is_dir())
                waiting += islice(below, max(0, _MAX_SUBGROUPS - len(waiting)))
        except OSError:
            continue  # gone meanwhile, or threaded: its processes are listed further up
    return pids[:_MAX_MEMBERS]


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def _read_at(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, _MAX_READ)
    finally:
        os.close(descriptor)
