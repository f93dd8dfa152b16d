"""A test host's name, its folder, and the end of hosts whose suite was killed.

The folder holds a lock for as long as the suite lives. A folder that can be locked
is a dead suite's: what bears its name is removed. Nothing else is ever touched,
so two suites can run side by side.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.host import cgroups

_PREFIX = "wgt-"
# Not /tmp, which may be a tmpfs: a dockerd's data root is in here.
_PARENT = Path("/var/tmp")


def _locked(path: Path, *, wait: bool) -> int | None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def session() -> Iterator[Path]:
    """A folder of our own; its name is unique on this machine. Removed with all that bears it."""
    # Between making a folder and locking it, another suite must not take it for dead.
    making = _locked(_PARENT / f"{_PREFIX}lock", wait=True)
    assert making is not None
    try:
        _sweep()
        folder = _PARENT / f"{_PREFIX}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o755)
        held = _locked(folder / "lock", wait=False)
    finally:
        os.close(making)
    try:
        yield folder
    finally:
        _remove(folder)
        if held is not None:
            os.close(held)


def _sweep() -> None:
    for folder in _PARENT.glob(f"{_PREFIX}*/"):
        # Somebody else's folder of that name is not ours to remove.
        if folder.is_symlink() or folder.stat().st_uid != 0:
            continue
        held = _locked(folder / "lock", wait=False)
        if held is not None:
            try:
                _remove(folder)
            finally:
                os.close(held)


def _remove(folder: Path) -> None:
    """Kill everything, which takes namespaces, mounts and loop devices along; then the rest."""
    cgroups.remove_everywhere(folder.name)
    shutil.rmtree(folder)
