"""Before the daemon: keep shut, from boot on, what is to be shut unless it is inspected.

With `web.on_failure: closed` a container that starts before webguard protects, or
although it cannot start, must not reach the web. So the kernel is left as a killed
daemon leaves it: one table of the kind that outlives its process, which the daemon
takes over when it starts, and removes when its own stands.

It matches the cgroups that the settings name as containers' parents, made here if
they are not there yet, and the containers that run already. With `open` nothing is done.
"""

from pathlib import Path

from netiso import cgroups
from netiso.apply import Kernel
from netiso.cgroup_watch import CgroupWatch
from webguard.daemon import owners
from webguard.daemon.interception import redirect_of
from webguard.daemon.lock import only_one
from webguard.daemon.material import read_settings
from webguard.daemon.paths import Paths
from webguard.policy.config import Config


def shut(paths: Paths, config: Path | None) -> tuple[str, ...] | None:
    """Shut the containers' web ports, and return below which cgroups; None with `open`.

    May be repeated: the ports stay shut meanwhile. Raises `ConfigError`, `HostError`,
    or `RefusedError` when a daemon runs, whose affair it is then.
    """
    owners.demand(paths, config)
    settings = read_settings(paths, config)
    if settings.web.on_failure != "closed":
        return None
    with only_one(paths):
        return _load(settings)


def _load(settings: Config) -> tuple[str, ...]:
    root = cgroups.find_root()
    for name in settings.runtimes.cgroup_parents:
        if "/" not in name:  # those above deeper ones are somebody else's to make
            cgroups.ensure(root, name)
    watch = CgroupWatch(root, settings.runtimes.cgroup_parents)
    try:
        found = watch.scan().added
    finally:
        watch.close()
    kernel = Kernel(redirect_of(settings))
    try:
        kernel.adopt()
        kernel.load()
        kernel.add_cgroups((level, id_) for level, id_, _ in found)
        kernel.discard_adopted()
    except BaseException:
        kernel.close(keep_adopted=True)
        raise
    kernel.abandon()  # the redirect, which was never switched on, goes with its owner
    return tuple(path for _, _, path in found)
