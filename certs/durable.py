"""Put a file of our own on disk so that a crash leaves the old one or the new one.

For folders that nobody but us and root can write to. Files in containers are
`certs.inside`'s matter.
"""

import os
import secrets
from pathlib import Path

from webguard.errors import HostError


def write(path: Path, data: bytes, mode: int) -> None:
    """Write `data` to `path`: temporary file, fsync, rename, fsync of the folder."""
    commit(stage(path, data, mode), path)


def stage(path: Path, data: bytes, mode: int) -> Path:
    """Write `data` beside `path` and onto the disk, but not under that name yet."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)  # whatever the umask
                file.write(data)
                file.flush()
                os.fsync(fd)
        except BaseException:
            temporary.unlink()
            raise
    except OSError as error:
        raise HostError(
            f"write {path}", error.strerror or str(error), "free space there, or make it writable"
        ) from error
    return temporary


def commit(temporary: Path, path: Path) -> None:
    """Give a staged file its name."""
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostError(
            f"write {path}", error.strerror or str(error), "move what is there out of the way"
        ) from error
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
