"""Walk over trees that somebody hostile may be changing meanwhile, and open their files.

Every step is one name below a descriptor that is held, by openat2(2) with
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: whatever folder is moved or replaced by
a link meanwhile, nothing outside is reached. What a name leads to is looked at
through O_PATH, which opens nothing, and only a regular file is then opened, by
that descriptor and not by its name: no device is ever opened, and no FIFO waited
for. Links are not followed, so there are no loops.

The paths that the caller names are the exception: they are resolved as every
command resolves them, links included.

Facts come from statx(2) without asking servers for news (AT_STATX_DONT_SYNC): a
FUSE file system whose process does not answer would hold us for ever.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from webguard.errors import HostError

DEEPEST = 200
"""Folders above each other. Each costs two descriptors, of which a process has 1024."""

_SYS_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_AT_STATX_DONT_SYNC = 0x4000
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
_STATX_TYPE_MODE_SIZE = 0x1 | 0x2 | 0x200
_STATX_MNT_ID = 0x1000  # since Linux 5.8

# The kernel's own, made when they are read: no content, side effects, or endless. With the
# numbers that statfs(2) has for them, for a mount that is in no table of ours.
_KERNELS = {
    "autofs": 0x187,
    "binfmt_misc": 0x42494E4D,
    "bpf": 0xCAFE4A11,
    "cgroup": 0x27E0EB,
    "cgroup2": 0x63677270,
    "configfs": 0x62656570,
    "debugfs": 0x64626720,
    "devpts": 0x1CD1,
    "efivarfs": 0xDE5E81E4,
    "fusectl": 0x65735543,
    "mqueue": 0x19800202,
    "nsfs": 0x6E736673,
    "proc": 0x9FA0,
    "pstore": 0x6165676C,
    "rpc_pipefs": 0x67596969,
    "securityfs": 0x73636673,
    "selinuxfs": 0xF97CFF8C,
    "smackfs": 0x43415D53,
    "sysfs": 0x62656572,
    "tracefs": 0x74726163,
}
# Somebody else answers for them, or does not.
_ELSEWHERE = frozenset(
    ("9p", "afs", "ceph", "cifs", "coda", "fuse", "fuseblk", "lustre", "nfs", "nfs4", "smb3")
)

_KINDS = {
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, open for reading. Whoever takes it closes it."""

    path: str
    descriptor: int
    size: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose content comes next."""

    path: str


@dataclass(frozen=True, slots=True)
class Passed:
    """There is no content to look at here, or the caller did not want it."""

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Missed:
    """There may be content here, and we could not look. `absent`: a named path is not there."""

    path: str
    reason: str
    absent: bool = False


type Step = File | Folder | Passed | Missed


def walk(paths: Iterable[str], *, one_file_system: bool = False) -> Generator[Step]:
    """Yield what is at and below `paths`. Names that are not UTF-8 hold surrogates (PEP 383).

    Raises `HostError` on a kernel that is too old to walk safely; whatever the
    trees hold is a step. With `one_file_system` no mount below `paths` is entered.
    """
    mounts = _Mounts()
    for path in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            yield Missed(path, _said(error), absent=True)
            continue
        yield from _tree(path, descriptor, mounts, one_file_system)


@dataclass(slots=True)
class _Open:
    """A folder that we are in."""

    path: str
    descriptor: int
    entries: "os._ScandirIterator[str]"
    mount: int

    def close(self) -> None:
        self.entries.close()
        os.close(self.descriptor)


def _tree(path: str, descriptor: int, mounts: "_Mounts", one_file_system: bool) -> Iterator[Step]:
    step, folder = _look(path, descriptor, mounts, None)
    yield Missed(path, f"it is a {step.what}") if isinstance(step, Passed) else step
    above = [folder] if folder else []
    try:
        while above:
            inner = above[-1]
            try:
                entry = next(inner.entries, None)
            except OSError as error:
                yield Missed(inner.path, f"its list ends early: {_said(error)}")
                entry = None
            if entry is None:
                above.pop().close()
                continue
            # Joined by hand: "/" has its slash already.
            below = f"{inner.path.rstrip('/')}/{entry.name}"
            if len(above) >= DEEPEST and entry.is_dir(follow_symlinks=False):
                yield Missed(below, f"more than {DEEPEST} folders deep")
                continue
            step, folder = _enter(inner, entry.name, below, mounts, one_file_system)
            if folder:
                above.append(folder)
            yield step
    finally:
        for each in above:
            each.close()


def _enter(
    inner: _Open, name: str, below: str, mounts: "_Mounts", one_file_system: bool
) -> tuple[Step, _Open | None]:
    """Look at what `name` in a folder is now."""
    try:
        descriptor = _open_beneath(inner.descriptor, name, one_file_system)
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                return Passed(below, "file that has gone"), None
            case errno.EXDEV if one_file_system:
                return Passed(below, "mount"), None
            case _:
                return Missed(below, _said(error)), None
    return _look(below, descriptor, mounts, inner)


def _look(
    path: str, descriptor: int, mounts: "_Mounts", inside: _Open | None
) -> tuple[Step, _Open | None]:
    """Say what this is, and open it if it has content. Closes `descriptor`, an O_PATH one."""
    try:
        facts = _facts(descriptor)
        if (inside is None or facts.mount != inside.mount) and (
            refusal := mounts.refusal(path, facts.mount, descriptor, named=inside is None)
        ):
            return refusal, None
        kind = stat.S_IFMT(facts.mode)
        if kind == stat.S_IFDIR:
            # The same folder, whatever its name means by now.
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
            try:
                entries = os.scandir(readable)
            except OSError:
                os.close(readable)
                raise
            return Folder(path), _Open(path, readable, entries, facts.mount)
        if kind != stat.S_IFREG:
            return Passed(path, _KINDS.get(kind, "file of no known kind")), None
        # Non-blocking, or a lease on the file (fcntl(2)) would make us wait for its holder.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        opened = os.open(f"/proc/self/fd/{descriptor}", flags)
        return File(path, opened, facts.size), None
    except OSError as error:
        return Missed(path, _said(error)), None
    finally:
        os.close(descriptor)


class _Mounts:
    """What the mounts are. Asked of the kernel's table, for a file system may not answer."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}

    def refusal(self, path: str, mount: int, descriptor: int, *, named: bool) -> Step | None:
        """Return why what is on this mount is not walked over, None if it is.

        What the caller named is walked over wherever it is, if there is content at all.
        """
        if mount not in self._types:
            self._types |= _mount_types()
        kind = self._types.get(mount, "")
        if kind in _KERNELS or (named and not kind and _magic(descriptor) in _KERNELS.values()):
            return Passed(path, "file system of the kernel's own")
        if named:
            return None
        if not kind:
            return Missed(path, "on a mount of another mount namespace (name it to scan it)")
        if kind in _ELSEWHERE or kind.startswith("fuse."):
            return Missed(path, f"on {kind}, which may never answer (name it to scan it)")
        return None


def _mount_types() -> dict[int, str]:
    """Return the type of each mount that we see, by its id (proc_pid_mountinfo(5))."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        found[int(before.split(b" ", 1)[0])] = after.split(b" ", 1)[0].decode("ascii", "replace")
    return found


@dataclass(frozen=True, slots=True)
class _Facts:
    mode: int
    size: int
    mount: int


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def _open_beneath(folder: int, name: str, one_file_system: bool) -> int:
    """Return an O_PATH descriptor of `name` in `folder`; of a link itself if it is one."""
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    resolve |= _RESOLVE_NO_XDEV if one_file_system else 0
    how = struct.pack("=QQQ", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, resolve)
    descriptor: int = _LIBC.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(folder),
        ctypes.c_char_p(os.fsencode(name)),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        if code == errno.ENOSYS:
            raise _too_old()
        raise OSError(code, os.strerror(code))
    return descriptor


def _facts(descriptor: int) -> _Facts:
    """Return what statx(2) says; its structure is the kernel's, the same everywhere."""
    found = ctypes.create_string_buffer(256)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC | _AT_NO_AUTOMOUNT
    if _LIBC.statx(descriptor, b"", flags, _STATX_TYPE_MODE_SIZE | _STATX_MNT_ID, found) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    (mask,) = struct.unpack_from("=I", found, 0)
    if not mask & _STATX_MNT_ID:
        raise _too_old()
    (mode,) = struct.unpack_from("=H", found, 28)
    (size,) = struct.unpack_from("=Q", found, 40)
    (mount,) = struct.unpack_from("=Q", found, 144)
    return _Facts(mode, size, mount)


def _magic(descriptor: int) -> int:
    """Return the type of a file system as statfs(2) tells it, 0 if it does not."""
    found = ctypes.create_string_buffer(256)
    if _LIBC.fstatfs(descriptor, found) != 0:
        return 0
    return ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF


def _too_old() -> HostError:
    return HostError(
        "walk over files", "the kernel lacks openat2 or statx", "Linux 5.8 or later can do it"
    )


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
