"""Sockets at paths of ours: whether anybody holds one, and making room for another."""

import errno
import logging
import socket
from pathlib import Path

log = logging.getLogger(__name__)


def held(path: Path) -> bool:
    """Return whether the socket at `path` is a living process's. Raises `OSError`.

    That process does not notice: we ask with a kind of socket that it is not.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(str(path))
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return True
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return False
            raise
    return True


def make_room(path: Path) -> None:
    """Remove what is at `path`, and say so if nobody holds it. Only for who has the lock.

    What somebody holds is a predecessor's then, whose place we take.
    """
    try:
        if path.exists(follow_symlinks=False) and not held(path):
            log.warning("%s was left behind by a daemon that is gone: it is replaced", path)
    except OSError as error:
        log.warning("%s is replaced: %s", path, error)
    path.unlink(missing_ok=True)
