"""Run the daemon in the foreground: settings and rules in, a supervisor until it is stopped."""

import asyncio
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from webguard.daemon import control, journal, report
from webguard.daemon.clock import stamp
from webguard.daemon.handover import take
from webguard.daemon.material import read
from webguard.daemon.paths import Paths
from webguard.daemon.prepare import prepare
from webguard.daemon.supervisor import Supervisor
from webguard.errors import WebguardError
from webguard.store.lines import Lines
from webguard.store.record import Store
from webguard.store.writer import Keep

# More than any worker uses (addons.crowd), and few enough for who closes all of them one by one.
_DESCRIPTORS = 65_536


def protect(
    paths: Paths,
    config: Path | None,
    ready: Callable[[dict[str, Any]], None],
    *,
    take_over: bool = False,
) -> None:
    """Protect until we are told to end; `ready` gets the status once it does.

    Raises `ConfigError`, `HostError` or `RefusedError` with the host as it was.
    """
    predecessor = take(paths) if take_over else None
    material = read(paths, config, generation=1)
    journal.log_to_stderr("webguardd", material.config.log.level)
    prepare(paths)
    _take_descriptors()
    kept = material.config.store
    lines = Lines(sys.stdout.fileno(), stamp, journal=journal.is_journal(sys.stdout))
    store = Store(
        paths.events,
        stamp=stamp,
        keep=Keep(days=kept.keep_days, bytes=kept.keep_bytes),
        told=lines.record,
    )
    supervisor = Supervisor(
        material=material,
        paths=paths,
        lines=lines,
        store=store,
        predecessor=predecessor,
    )
    try:
        asyncio.run(supervisor.run(control.serve, lambda whole: ready(report.status(whole))))
    except BaseExceptionGroup as group:
        # One of the daemon's tasks failed and the others were stopped: its error is the news.
        ours, _bugs = group.split(WebguardError)
        if ours is None:
            raise
        raise _first(ours) from group
    finally:
        store.close()


def _first(group: BaseExceptionGroup[WebguardError]) -> WebguardError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _take_descriptors() -> None:
    """Use as many descriptors as we are allowed, and so our children: a shell gives 1024."""
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = _DESCRIPTORS if allowed == resource.RLIM_INFINITY else min(allowed, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, allowed))
