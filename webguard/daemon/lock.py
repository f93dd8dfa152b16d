"""One daemon an instance: the lock, and the folder that it lies in.

The lock is on an open file, and the sentry inherits that file: the successor of
a killed daemon cannot start before the sentry has tidied up, so tidying never
takes away what is the successor's already.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from webguard.daemon.paths import Paths
from webguard.errors import HostError, RefusedError

# A killed daemon's sentry needs a fraction of a second, on a busy host a few of them.
_PATIENCE = 3.0
_AGAIN = 0.05


@contextlib.contextmanager
def only_one(
    paths: Paths, inherited: int | None = None, keep: Callable[[], bool] = lambda: False
) -> Iterator[int]:
    """Hold this instance's lock; yield its descriptor, for the sentry to inherit.

    `inherited` is a predecessor's, held already. File and folder are removed at
    the end unless `keep` says that a successor has them. Raises `RefusedError`
    when another daemon holds the lock, `HostError` when there is no place for it.
    """
    try:
        descriptor = _acquire(paths) if inherited is None else inherited
    except OSError as error:
        raise HostError(
            f"make {paths.lock}", error.strerror or str(error), "is there room on its file system?"
        ) from error
    try:
        yield descriptor
    finally:
        if not keep():
            # While it is still held: who opened the file meanwhile sees that it is gone.
            with contextlib.suppress(OSError):
                paths.lock.unlink()
                paths.run.rmdir()
        os.close(descriptor)


def _acquire(paths: Paths) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(
                paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except FileNotFoundError:  # the last holder removed the folder in this moment
            if time.monotonic() > deadline:
                raise
            continue
        if _locked(descriptor, paths):
            return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise RefusedError(
                f"another webguard of the instance {paths.instance} is running"
                f" (stop it first; it holds {paths.lock})"
            )
        time.sleep(_AGAIN)


def _locked(descriptor: int, paths: Paths) -> bool:
    """Try to lock; false too if the file that was locked is no longer the one at the path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == paths.lock.stat(follow_symlinks=False).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
