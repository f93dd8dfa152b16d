"""Follow the containers' cgroups as they come and go. Sans-asyncio: wait on `fileno`, then `drain`.

An exclusive parent (its level 1 name is given: `docker`, `kubepods.slice`)
matches as a whole, which needs no event when a container starts. Elsewhere a
container's directory is matched when inotify tells of it: a race that is
usually won, so say which of the two covers a container.

Each event only says where to look; what counts is what is there by then. So a
directory that was removed and made again between two events comes out right:
the old id goes, the new one comes.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netiso.cgroups import Entry, children, identity, is_container
from webguard.errors import HostError

_CREATE, _DELETE = 0x100, 0x200
_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x40000000
_ONLYDIR, _DONT_FOLLOW = 0x01000000, 0x02000000
_EVENT = struct.Struct("=iIII")
_BUFFER = 1 << 16
# One drain reads at most this often: whoever floods us with directories must
# not keep the caller from its other work. What is left is read next time.
_READS = 64
_FULL = (errno.ENOSPC, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Changes:
    """What to put into the sets and what to take out."""

    added: tuple[Entry, ...] = ()
    removed: tuple[Entry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


class CgroupWatch:
    """The containers' cgroups below `root`, down to `levels`, with at most `limit` watches.

    `blind` names the directories that could not be watched: containers that
    start in them are found by the next `scan` only, and that must be said. With
    as many of them as watches we look no further: a user may make directories
    without end, and nobody is to wait for us to count them.
    """

    def __init__(
        self, root: Path, exclusive: Iterable[str] = (), *, levels: int = 8, limit: int = 4096
    ) -> None:
        self.blind: set[str] = set()
        self._root = root
        self._exclusive = frozenset(exclusive)
        self._levels = levels
        self._limit = limit
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            raise HostError(
                "watch the cgroup tree",
                os.strerror(ctypes.get_errno()),
                "raise fs.inotify.max_user_instances",
            )
        self._found: dict[str, Entry] = {}
        self._watched: dict[str, tuple[int, int]] = {}  # path -> watch, cgroup id
        self._paths: dict[int, str] = {}  # watch -> path

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._inotify

    def close(self) -> None:
        """Stop watching."""
        os.close(self._inotify)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every cgroup that is matched now."""
        return tuple(self._found.values())

    def scan(self) -> Changes:
        """Look at the whole tree, and return what differs from the last look."""
        before = dict(self._found)
        self.blind.clear()
        self._rescan()
        return self._since(before)

    def drain(self) -> Changes:
        """Read the events there are, and return what they changed."""
        before = dict(self._found)
        for _ in range(_READS):
            try:
                events = os.read(self._inotify, _BUFFER)
            except BlockingIOError:
                break
            self._take(events)
        return self._since(before)

    def _since(self, before: dict[str, Entry]) -> Changes:
        """What came and went in between is no change: it was never told."""
        # The entry holds the id: a directory made again is another entry.
        return Changes(
            added=tuple(each for path, each in self._found.items() if before.get(path) != each),
            removed=tuple(each for path, each in before.items() if self._found.get(path) != each),
        )

    def _take(self, events: bytes) -> None:
        at = 0
        while at + _EVENT.size <= len(events):
            watch, mask, _cookie, size = _EVENT.unpack_from(events, at)
            name = os.fsdecode(events[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0"))
            at += _EVENT.size + size
            if mask & _OVERFLOW:
                self._rescan()
            elif mask & _IGNORED:
                self._paths.pop(watch, None)
            elif mask & _ISDIR and (parent := self._paths.get(watch)) is not None:
                self._look(f"{parent}/{name}".lstrip("/"))

    def _rescan(self) -> None:
        for path in (*self._found, *self._watched):
            if path and identity(self._root / path) is None:
                self._forget(path)
        self._look("")

    def _look(self, path: str) -> None:
        """Bring what we know of `path` and all below it up to date."""
        waiting = [path]
        while waiting:
            at = waiting.pop()
            known = identity(self._root / at)
            if self._known(at) not in (None, known) or (known is None and self.blind):
                self._forget(at)
            if known is None:
                continue
            level = at.count("/") + 1 if at else 0
            if self._matches(at):
                if at not in self._found:
                    self._found[at] = (level, known, at)
            elif level < self._levels and len(self.blind) < self._limit:
                # Watch first, list then: what comes between is seen twice, not never.
                self._watch(at, known)
                waiting += [str(each.relative_to(self._root)) for each in children(self._root / at)]

    def _matches(self, path: str) -> bool:
        return path in self._exclusive or is_container(path.rpartition("/")[2])

    def _known(self, path: str) -> int | None:
        if path in self._found:
            return self._found[path][1]
        return self._watched[path][1] if path in self._watched else None

    def _forget(self, path: str) -> None:
        """Drop `path` and what was below it: a cgroup goes only when those are gone."""
        below = f"{path}/"
        for each in [one for one in self._found if one == path or one.startswith(below)]:
            del self._found[each]
        for each in [one for one in self._watched if one == path or one.startswith(below)]:
            # The kernel drops the watch itself, with the directory.
            self._paths.pop(self._watched.pop(each)[0], None)
        self.blind = {each for each in self.blind if each != path and not each.startswith(below)}

    def _watch(self, path: str, cgroup: int) -> None:
        if path in self._watched:
            return
        if len(self._watched) >= self._limit:
            self.blind.add(path)
            return
        mask = _CREATE | _DELETE | _ONLYDIR | _DONT_FOLLOW
        watch = self._libc.inotify_add_watch(
            self._inotify, os.fsencode(self._root / path), ctypes.c_uint32(mask)
        )
        if watch >= 0:
            self._watched[path] = (watch, cgroup)
            self._paths[watch] = path
        elif ctypes.get_errno() in _FULL:
            self.blind.add(path)
        # Else it is gone again, and its parent's event says so.
