"""Where the cgroup v2 tree is, which of its directories are containers, and what an id means.

A cgroup id is the inode number of its directory and is not used again. The
version 1 hierarchies of a hybrid host are not ours to touch: sockets know only
their version 2 cgroup. Names below the root may be chosen by users and by
containers; they are compared, never parsed.
"""

import contextlib
import ctypes
import errno
import os
import re
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from webguard.errors import HostError

# Runtimes name a container's cgroup by its id: bare, or as a systemd scope with
# the runtime in front. conmon's scope carries the id too, but is the monitor's.
_NAME = re.compile(r"(?:([a-z][a-z0-9-]{0,40})-)?([0-9a-f]{64})(?:\.scope)?")
_MONITOR = "conmon"
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")  # proc(5) writes blanks in paths so
_KERNFS_HANDLE = 0xFE  # FILEID_KERNFS, linux/exportfs.h
# A search for an id stops here: a user may make cgroups without end.
_SEARCH_LIMIT = 20_000

type Entry = tuple[int, int, str]
"""Level, cgroup id, and path below the root of the tree."""


def find_root(mounts: Path = _MOUNTS) -> Path:
    """Return where the whole cgroup v2 tree is mounted. Raises `HostError` if nowhere."""
    found = []
    for line in mounts.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        # Field 4 is the part of the tree that is mounted: a container may have
        # its own cgroup bind-mounted, in which levels would count differently.
        if after.split()[:1] == ["cgroup2"] and len(fields) > 4 and fields[3] == "/":
            found.append(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
    if not found:
        raise HostError(
            "find the cgroup v2 tree",
            "it is not mounted",
            "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with a systemd that does",
        )
    # The shortest is the host's own; deeper ones are somebody's copies.
    return Path(min(found, key=len))


def is_container(name: str) -> bool:
    """Return whether a directory's name is that of a container's cgroup."""
    match = _NAME.fullmatch(name)
    return match is not None and not _is_monitor(match)


def path_of(cgroup: int, root: Path) -> str | None:
    """Return the path below `root` of the cgroup with this id, None if there is none."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _by_handle(cgroup, descriptor, root)
    except OSError as error:
        if error.errno in (errno.ESTALE, errno.ENOENT):
            return None
        # No CAP_DAC_READ_SEARCH, or a kernel before 5.5 with other handles.
        return search(cgroup, root)
    finally:
        os.close(descriptor)


def search(cgroup: int, root: Path, *, limit: int = _SEARCH_LIMIT) -> str | None:
    """Find a cgroup by looking at every directory, nearest the root first, up to `limit`."""
    waiting = deque([root])
    seen = 0
    while waiting:
        for child in children(waiting.popleft()):
            seen += 1
            if seen > limit:
                return None
            if identity(child) == cgroup:
                return str(child.relative_to(root))
            waiting.append(child)
    return None


def children(path: Path) -> list[Path]:
    """Return the cgroups right below one, in the order of their names; none if it is gone."""
    try:
        with os.scandir(path) as entries:
            return sorted(Path(each.path) for each in entries if each.is_dir(follow_symlinks=False))
    except OSError:
        return []


def identity(path: Path) -> int | None:
    """Return the id of a cgroup's directory, None if it is gone."""
    try:
        return path.stat(follow_symlinks=False).st_ino
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCgroup:
    """A cgroup that we asked for, and whether we may remove it."""

    path: Path
    id: int
    removable: bool

    def remove(self) -> bool:
        """Remove it if that is ours to do and nobody is in it; return whether it is gone."""
        if self.removable:
            # Busy: a container started below it meanwhile, and keeps it.
            with contextlib.suppress(OSError):
                self.path.rmdir()
        return not self.path.exists()


def ensure(root: Path, name: str, *, ours: bool = False) -> OwnCgroup:
    """Make the level 1 cgroup `name` if it is missing. Raises `HostError`.

    An exclusive parent is made before the first container, so that its id is
    loaded when that starts; runtimes use what is there. `ours` says that the
    name is this instance's own: then what an earlier run left behind is removed
    like what we made.
    """
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not the name of a cgroup below the root")
    path = root / name
    try:
        path.mkdir(mode=0o755)
        made = True
    except FileExistsError:
        made = False
    except OSError as error:
        raise HostError(
            f"make the cgroup {path}", str(error), "is the cgroup v2 tree mounted read-write?"
        ) from error
    return OwnCgroup(path=path, id=path.stat().st_ino, removable=made or ours)


def _is_monitor(match: re.Match[str]) -> bool:
    return (match[1] or "").split("-")[-1] == _MONITOR


def _by_handle(cgroup: int, mount: int, root: Path) -> str | None:
    """Open the directory by its file handle, which holds the id: no search, and no race."""
    handle = struct.pack("=IiQ", 8, _KERNFS_HANDLE, cgroup)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(handle, len(handle))
    descriptor = libc.open_by_handle_at(mount, buffer, os.O_PATH | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    try:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)
    # A directory that is just being removed shows as "... (deleted)".
    if identity(path) != cgroup or not path.is_relative_to(root):
        return None
    return str(path.relative_to(root))
