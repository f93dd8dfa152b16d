"""Run the daemon in the foreground: settings and rules in, a supervisor until it is stopped."""

import asyncio
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


def protect(
    paths: Paths,
    config: Path | None,
    ready: Callable[[dict[str, Any]], None],
    *,
    take_over: bool = False,
) -> None:
    """Protect until SIGINT or SIGTERM; `ready` gets the status once it does.

    Raises `ConfigError`, `HostError` or `RefusedError` with the host as it was.
    """
    predecessor = take(paths) if take_over else None
    material = read(paths, config, generation=1)
    journal.log_to_stderr("webguardd", material.config.log.level)
    prepare(paths)
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
