"""Run the daemon in the foreground: settings and rules in, a supervisor until it is stopped."""

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from webguard.daemon import control, report
from webguard.daemon.clock import stamp
from webguard.daemon.paths import Paths
from webguard.daemon.prepare import prepare
from webguard.daemon.settings import Settings
from webguard.daemon.supervisor import Material, Supervisor
from webguard.errors import ConfigError, WebguardError
from webguard.policy.config import Config, load
from webguard.scan.engine import compile_rules, shipped_rules
from webguard.store.lines import Lines

_LARGEST_RULES = 16 * 1024 * 1024


def protect(paths: Paths, config: Path | None, ready: Callable[[dict[str, Any]], None]) -> None:
    """Protect until SIGINT or SIGTERM; `ready` gets the status once it does.

    Raises `ConfigError`, `HostError` or `RefusedError` with the host as it was.
    """
    settings = _settings(config or paths.config, paths)
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log.level.upper(),
        format="webguardd: %(levelname)s: %(message)s",
    )
    rules = compile_rules(shipped_rules() | own_rules(paths.rules))
    prepare(paths)
    supervisor = Supervisor(
        config=settings,
        paths=paths,
        lines=Lines(sys.stdout.fileno(), stamp),
        material=Material(policy_settings=_for_workers(settings), rules=rules),
    )
    try:
        asyncio.run(supervisor.run(control.serve, lambda whole: ready(report.status(whole))))
    except BaseExceptionGroup as group:
        # One of the daemon's tasks failed and the others were stopped: its error is the news.
        ours, _bugs = group.split(WebguardError)
        if ours is None:
            raise
        raise _first(ours) from group


def own_rules(folder: Path) -> dict[str, str]:
    """Return the operator's scan rules; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.glob("*.yar")):
        try:
            if path.stat().st_size > _LARGEST_RULES:
                raise ConfigError(str(path), "larger than 16 MiB (split it)")
            found[str(path)] = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                str(path), f"cannot read it: {error} (correct or remove it)"
            ) from error
    return found


def _settings(path: Path, paths: Paths) -> Config:
    found = load(path)
    if found.instance == Config().instance:
        return found.model_copy(update={"instance": paths.instance})
    if paths.instance not in (Config().instance, found.instance):
        raise ConfigError(
            str(path), f"instance is {found.instance}, but --instance {paths.instance} was given"
        )
    return found


def _for_workers(config: Config) -> Callable[[int], Settings]:
    """Return what makes the workers' settings once the self-test's cgroup is known."""

    def settings(probe_cgroup: int) -> Settings:
        return Settings(
            policy=config.policy(generation=1),
            max_body=config.web.max_body,
            origin_timeout=config.web.origin_timeout,
            probe_cgroup=probe_cgroup,
            log_level=config.log.level,
        )

    return settings


def _first(group: BaseExceptionGroup[WebguardError]) -> WebguardError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
