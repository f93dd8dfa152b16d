"""Reach the files of a container from a process that has entered it. Standard library only.

Only this file opens anything in a container, and only `certs.writer` uses it
there. The container may be hostile and at work in the same moment, so:

- a path is resolved by openat2 within the container's root, never through a
  magic link, and for writing never across a mount;
- nothing is opened before fstat said "regular file" on a descriptor that cannot
  become another object: a container may make device nodes, and we are root;
- a file is replaced by rename, never changed in place: a client that reads half
  a bundle fails.

Descriptors are left to the end of the process, which lives for one request.
"""

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass

SIZE_LIMIT = 16 << 20  # bytes of one store; the largest public bundles are under 1 MiB
_ATTRIBUTE_LIMIT = 64

# openat2(2): the number is the same on every architecture Python's os.setns is used on.
_OPENAT2 = 437
NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _IN_ROOT = 0x01, 0x02, 0x04, 0x10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY

# Reading a regular file on these does nothing else. On others it may: /proc/kmsg
# is a regular file too.
_PLAIN = (
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "erofs", "squashfs"),
    *("overlay", "tmpfs", "nfs", "nfs4", "9p", "virtiofs"),
)
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}
_LIBC = ctypes.CDLL(None, use_errno=True)


class StoreError(Exception):
    """A store is not touched: the outcome to report and the reason."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Found:
    """An existing object, where it really is: `name` in the open directory `parent`."""

    fd: int  # O_PATH: it names the object and cannot read or wake it
    parent: int
    name: str
    path: str
    status: os.stat_result

    @property
    def kind(self) -> str:
        """What it is, in a word for a person."""
        return _KINDS.get(stat.S_IFMT(self.status.st_mode), "object of no known kind")

    @property
    def identity(self) -> str:
        """The same for every path that leads to the same object."""
        return f"{self.status.st_dev}:{self.status.st_ino}"


def opened(root: int, path: str, flags: int, restrict: int = 0) -> int:
    """Open `path` as the container sees it, or raise `OSError`."""
    # struct open_how: flags, mode, resolve
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS | restrict)
    fd, name = -1, os.fsencode(path)
    for _ in range(64):  # EAGAIN: a directory moved while ".." was resolved
        fd = _LIBC.syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def split(path: str) -> tuple[str, str]:
    """Return folder and name of an absolute path."""
    folder, _, name = path.rpartition("/")
    return folder or "/", name


@dataclass(frozen=True, slots=True)
class Inside:
    """The container's files, seen from within. Every method may raise `OSError`."""

    root: int
    proc: int  # the host's /proc/self: the container's /proc may be anything
    mounts: Mapping[int, tuple[str, str]]  # mount id -> type of file system, mount point

    def folder(self, path: str) -> int:
        """Open a directory of the container's root file system."""
        return opened(self.root, path, _FOLDER, NO_XDEV)

    def locate(self, path: str, restrict: int = NO_XDEV) -> Found:
        """Find what `path` leads to, links followed, without opening it."""
        fd = opened(self.root, path, os.O_PATH, restrict)
        real = os.readlink(f"fd/{fd}", dir_fd=self.proc)
        folder, name = split(real)
        # `real` is only a hint of where to look: `still` decides if it is the same object.
        parent = opened(self.root, folder, _FOLDER, restrict | _NO_SYMLINKS)
        found = Found(fd, parent, name or ".", real, os.fstat(fd))
        still(found)
        return found

    def dangling(self, path: str) -> bool:
        """Return whether a path that leads to nothing is a link, and not just free."""
        try:
            opened(self.root, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return False
        return True

    def read(self, found: Found) -> bytes:
        """Return the content of a regular file."""
        with os.fdopen(self._readable(found), "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise StoreError("refused", f"it is larger than {SIZE_LIMIT >> 20} MiB")
        return data

    def names(self, found: Found) -> list[str]:
        """Return the names in a directory, at most as many as any real store has."""
        with os.scandir(os.open(f"fd/{found.fd}", _FOLDER, dir_fd=self.proc)) as entries:
            return [entry.name for entry, _ in zip(entries, range(10_000), strict=False)]

    def mount(self, fd: int) -> tuple[str, str]:
        """Return type and place of the mount a descriptor is on."""
        with os.fdopen(os.open(f"fdinfo/{fd}", os.O_RDONLY, dir_fd=self.proc), "rb") as file:
            ids = [line for line in file.read().splitlines() if line.startswith(b"mnt_id:")]
        return self.mounts.get(int(ids[0].split()[1]), ("unknown", "an unknown place"))

    def mounted(self, found: Found) -> str:
        """Say what is mounted between the root and the object, "" if nothing is."""
        mount = self.mount(found.fd)
        return "" if mount == self.mount(self.root) else f"{mount[0]} at {mount[1]}"

    def harmless(self, found: Found) -> bool:
        """Return whether reading the object has no effect but reading."""
        return not self.mounted(found) or self.mount(found.fd)[0] in _PLAIN

    def replace(self, found: Found, data: bytes) -> None:
        """Put a file with this content, and the old one's looks, in the place of `found`."""
        if found.status.st_nlink != 1:
            # Its other names would keep the old content: not what whoever linked them meant.
            raise StoreError("refused", f"it has {found.status.st_nlink} hard links")
        name = self.temporary(found.parent, data, found)
        try:
            still(found)
            # In the container's mount namespace: EBUSY if something was mounted just now.
            # From the host's the rename would succeed and detach the mount.
            os.rename(name, found.name, src_dir_fd=found.parent, dst_dir_fd=found.parent)
        except BaseException:
            os.unlink(name, dir_fd=found.parent)
            raise
        os.fsync(found.parent)

    def temporary(self, parent: int, data: bytes, like: Found | None = None) -> str:
        """Write a new file beside its destination, with the looks of `like`; return its name."""
        name = f".webguard-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                if like is None:
                    os.fchmod(fd, 0o644)
                else:
                    os.fchown(fd, like.status.st_uid, like.status.st_gid)
                    os.fchmod(fd, stat.S_IMODE(like.status.st_mode))
                    self._copy_attributes(like, fd)
                os.fsync(fd)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        return name

    def make_folders(self, path: str) -> tuple[int, list[str]]:
        """Open a directory, making what is missing. Returns what was made, outermost first."""
        made: list[str] = []
        reached, fd = "", opened(self.root, "/", _FOLDER)
        for part in path.strip("/").split("/"):
            parent, reached = fd, f"{reached}/{part}"
            try:
                fd = self.folder(reached)
            except FileNotFoundError:
                if self.dangling(reached):
                    reason = f"{reached} is a link that leads nowhere"
                    raise StoreError("refused", reason) from None
                os.mkdir(part, 0o755, dir_fd=parent)
                made.append(reached)
                fd = opened(parent, part, _FOLDER, NO_XDEV)
        return fd, made

    def remove_folders(self, made: list[str]) -> None:
        """Remove what was made once, innermost first, as far as it is empty."""
        try:
            for path in reversed(made):
                folder, name = split(path)
                os.rmdir(name, dir_fd=self.folder(folder))
        except OSError:
            return  # not empty, or gone: the container's own from now on

    def _readable(self, found: Found) -> int:
        if not stat.S_ISREG(found.status.st_mode):
            raise StoreError("refused", f"it is a {found.kind}, not a file")
        # Through the descriptor: whatever stands at the path now, this is the same object.
        return os.open(f"fd/{found.fd}", os.O_RDONLY | os.O_NONBLOCK, dir_fd=self.proc)

    def _copy_attributes(self, like: Found, fd: int) -> None:
        source = self._readable(like)
        try:
            names = os.listxattr(source)
            if len(names) > _ATTRIBUTE_LIMIT:
                raise StoreError("refused", f"it has over {_ATTRIBUTE_LIMIT} extended attributes")
            for name in names:
                os.setxattr(fd, name, os.getxattr(source, name))
        finally:
            os.close(source)


def still(found: Found) -> None:
    """Refuse if the name no longer means the object we looked at, or its content moved."""
    now = os.stat(found.name, dir_fd=found.parent, follow_symlinks=False)
    for field in ("st_dev", "st_ino", "st_size", "st_ctime_ns"):
        if getattr(now, field) != getattr(found.status, field):
            raise StoreError("refused", "it was changed while we worked on it")
