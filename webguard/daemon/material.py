"""What the daemon works by, read from the operator's files: all of it good, or none of it.

Reading compiles the rules, so it belongs in a thread. Whatever is wrong is a
`ConfigError` with file, line and remedy, and what was in force stays in force.
"""

from dataclasses import dataclass
from pathlib import Path

from webguard.daemon import owners
from webguard.daemon.paths import Paths
from webguard.daemon.settings import Settings
from webguard.errors import ConfigError
from webguard.policy.config import Config, load
from webguard.policy.decide import Policy
from webguard.policy.load import load_policy
from webguard.scan.compiler import compile_apart, own_rules
from webguard.scan.engine import shipped_rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """One generation of settings, policy and compiled rules."""

    config: Config
    policy: Policy
    rules: bytes

    def for_workers(self, probe_cgroup: int) -> bytes:
        """Return what workers are told, as bytes for a sealed file."""
        web = self.config.web
        return (
            Settings(
                policy=self.policy,
                max_body=web.max_body,
                origin_timeout=web.origin_timeout,
                probe_cgroup=probe_cgroup,
                log_level=self.config.log.level,
            )
            .model_dump_json()
            .encode()
        )


def read(paths: Paths, config: Path | None, generation: int) -> Material:
    """Read everything again. Raises `ConfigError`."""
    owners.demand(paths, config)
    settings = read_settings(paths, config)
    return Material(
        config=settings,
        policy=load_policy(settings, groups=paths.groups, lists=paths.lists, generation=generation),
        rules=compile_apart({**shipped_rules(), **own_rules(paths.rules)}),
    )


def read_settings(paths: Paths, config: Path | None) -> Config:
    """Read the settings alone; the instance may come from the command line."""
    path = config or paths.config
    found = load(path)
    if found.instance == Config().instance:
        return found.model_copy(update={"instance": paths.instance})
    if paths.instance not in (Config().instance, found.instance):
        raise ConfigError(
            str(path), f"instance is {found.instance}, but --instance {paths.instance} was given"
        )
    return found


def check_reloadable(old: Config, new: Config, where: str) -> None:
    """Raise `ConfigError` for what cannot change while the daemon runs."""
    if (old.instance, old.web.listen_port) != (new.instance, new.web.listen_port):
        raise ConfigError(
            where, "instance and web.listen_port are set at the start (stop, and start again)"
        )
    fixed = {
        "web.workers": (old.web.workers, new.web.workers),
        "scan.workers": (old.scan.workers, new.scan.workers),
        "runtimes": (old.runtimes, new.runtimes),
        "store": (old.store, new.store),
    }
    if changed := [name for name, (was, will) in fixed.items() if was != will]:
        raise ConfigError(
            where,
            f"{', '.join(changed)} cannot change while the daemon runs "
            "(webguard run --take-over starts a successor with them, without a gap)",
        )
