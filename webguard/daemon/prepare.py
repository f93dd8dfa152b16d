"""Make the folders that the daemon needs, with the owners and modes that keep them safe."""

import grp
import os
import pwd
from pathlib import Path

from webguard.daemon.owners import problem
from webguard.daemon.paths import PROXY_USER, SIGNER_USER, Paths
from webguard.errors import HostError

_REMEDY = "make install creates the service users and folders; is there room on the disk?"


def prepare(paths: Paths) -> None:
    """Make what is missing. Raises `HostError` naming what has a wrong owner or kind.

    A wrong owner is not repaired: it may mean that somebody else put it there.
    """
    signer = _uid(SIGNER_USER)
    _uid(PROXY_USER)
    try:
        paths.state.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _folder(paths.state, 0o755, 0)
        _folder(paths.records, 0o700, 0)
        _folder(paths.ca, 0o700, signer)
        if os.path.lexists(paths.run):  # made with the lock, and gone with it
            _folder(paths.run, 0o755, 0)
    except OSError as error:
        raise HostError(f"make {error.filename}", error.strerror or str(error), _REMEDY) from error


def _folder(path: Path, mode: int, owner: int) -> None:
    try:
        path.mkdir(mode=mode)
        os.chown(path, owner, grp.getgrgid(0).gr_gid)
        path.chmod(mode)
    except FileExistsError:
        facts = path.stat(follow_symlinks=False)
        if facts.st_uid != owner or not path.is_dir() or path.is_symlink():
            raise HostError(
                f"use {path}",
                f"it is not a folder of uid {owner}",
                "find out who made it, and move it away",
            ) from None
        if why := problem(path, owner):
            raise HostError(
                f"use {path}", why, f"look for what is not yours there, then: chmod go-w {path}"
            ) from None


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise HostError(f"find the user {name}", "there is none", "run `make install`") from error
