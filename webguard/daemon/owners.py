"""Who may write what root does: settings, groups, lists and rules, and the folders of ours.

Whoever can change one of these commands the daemon, so they are root's alone. A
settings file that somebody names (`--config`) is their choice, and is not asked
for its owner; neither is anything below another root (`--root`).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from webguard.daemon.paths import Paths
from webguard.errors import ConfigError

_ROOT = 0
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def problem(path: Path, owner: int = _ROOT) -> str:
    """Return how others than its owner could change what is there, "" if they could not."""
    try:
        facts = path.stat()
    except OSError:
        return ""  # nothing is there; or reading it will tell
    if facts.st_uid != owner:
        return f"it belongs to uid {facts.st_uid}, not {owner}"
    if facts.st_mode & _OTHERS:
        return f"others than its owner can write to it (mode {stat.S_IMODE(facts.st_mode):04o})"
    return ""


def remedy(path: Path) -> str:
    """Return what puts a file of the operator's right."""
    return f"look at what it says, then: chown root {path}; chmod go-w {path}"


def written(paths: Paths) -> Iterator[Path]:
    """Yield what the operator writes, a folder before what lies in it."""
    yield from _with_target(paths.config.parent)
    yield from _with_target(paths.config)
    for folder in (paths.groups, paths.lists, paths.rules):
        yield from _with_target(folder)
        try:
            found = sorted(folder.iterdir())
        except OSError:
            continue  # as above
        for each in found:
            if not each.name.startswith("."):
                yield from _with_target(each)


def demand(paths: Paths, named: Path | None) -> None:
    """Raise `ConfigError` if others than root can write what the daemon is about to read.

    Asked by another user, who may look at files of his own, it raises nothing.
    """
    if not _binding(paths):
        return
    for path in written(paths):
        if path == paths.config and named is not None:
            continue
        if why := problem(path, _ROOT):
            raise ConfigError(str(path), f"{why} ({remedy(path)})")


def _binding(paths: Paths) -> bool:
    return os.geteuid() == 0 and paths.root == Path("/")


def _with_target(path: Path) -> Iterator[Path]:
    """Yield the path; of a link also the folder of its target, where it could be exchanged."""
    if path.is_symlink():
        yield path.resolve().parent
    yield path
