"""What the daemon says about itself: only what was measured, and what is not covered."""

import os
from dataclasses import asdict
from typing import Any

from netiso import kernel_state
from webguard.daemon.supervisor import Supervisor
from webguard.errors import HostError
from webguard.model import Container, Network
from webguard.policy import show
from webguard.policy.groups import Group

_WHY_NOT = {
    Network.PRIVATE: "it has its own network; web inspection covers host-network containers",
    Network.UNKNOWN: "its network could not be measured",
}


def status(supervisor: Supervisor) -> dict[str, Any]:
    """Return the state of everything, with stable keys (docs/operate.md)."""
    missing = supervisor.protection.missing()
    config = supervisor.config
    return {
        "protected": not missing,
        "missing": list(missing),
        "instance": config.instance,
        "pid": os.getpid(),
        "web": {
            "enabled": config.web.enabled,
            "ports": list(config.web.ports),
            "on_failure": config.web.on_failure,
            "unscanned": config.web.unscanned,
            "max_body": config.web.max_body,
            "listen_port": config.web.listen_port,
        },
        "packets": _packets(supervisor),
        "workers": [
            {
                "number": each.number,
                "pid": each.service.child.pid if each.service else 0,
                "served": each.counted.served,
                "refused": each.counted.direct,
                "probes": each.counted.probes,
                "open": each.counted.open,
            }
            for each in supervisor.workers
        ],
        "scanners": [{"number": each.number, "pid": each.pid} for each in supervisor.scanners.each],
        "ca": {
            "name": supervisor.authority.common_name,
            "sha256": supervisor.authority.fingerprint,
        },
        "events_lost": supervisor.lines.lost,
        "record": asdict(supervisor.store.state()),
        "isolation": supervisor.isolating.brief(),
        "containers": containers(supervisor),
        "not_covered": not_covered(supervisor),
    }


def _packets(supervisor: Supervisor) -> dict[str, int]:
    try:
        return dict(supervisor.interception.kernel.packets())
    except (HostError, OSError):
        return {}


def _rivals(instance: str) -> tuple[str, ...]:
    try:
        return kernel_state.rivals(instance)
    except (HostError, OSError) as error:
        return (f"other programs' rules could not be read: {error}",)


def containers(supervisor: Supervisor) -> list[dict[str, Any]]:
    """Return every container and whether its web traffic is inspected, and why not."""
    found = sorted(supervisor.interception.inventory.containers, key=lambda each: each.key)
    live = not supervisor.protection.failing()
    policy = supervisor.material.policy
    return [_container(each, live=live, group=policy.group_of(each)) for each in found]


def _container(container: Container, *, live: bool, group: Group) -> dict[str, Any]:
    why = _WHY_NOT.get(container.network, "" if live else "the host is not protected now")
    if not why and not group.enabled:
        why = f"web.enabled is false for its group, {group.name}"
    return {
        "runtime": container.runtime,
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "pid": container.pid,
        "network": str(container.network),
        "inspected": not why,
        "why_not": why,
    }


def not_covered(supervisor: Supervisor) -> list[str]:
    """Return what this host's protection leaves out, in sentences."""
    config = supervisor.config
    found = [
        f"TCP ports other than {', '.join(str(each) for each in config.web.ports)}",
        "connections to the host's own loopback addresses",
        "packets sent through raw sockets (a container with CAP_NET_RAW can make them)",
        "connections that were open before webguard started",
        "containers with a network of their own",
        f"WebSocket messages (web.unscanned: {config.web.unscanned})",
        "what event streams and bodies over web.max_body show only as a whole, or decoded "
        f"(web.unscanned: {config.web.unscanned})",
    ]
    if off := show.switched_off(supervisor.material.policy):
        found.append(f"web.enabled is false for: {', '.join(off)}")
    found += [f"where another program is first: {each}" for each in _rivals(config.instance)]
    inventory = supervisor.interception.inventory
    if not supervisor.protection.v6:
        found.append("IPv6: this host has no route to test it with")
    if inventory.problem:
        found.append(f"names of containers: {inventory.problem}")
    elif not inventory.engine_present:
        found.append("names of containers: no engine answers; they are known by id")
    if raced := supervisor.interception.raced:
        found.append(
            f"the very first connections of containers like {raced[0]}: they are found one by one"
            " (give the runtime a cgroup parent of its own, and name it in runtimes.cgroup_parents)"
        )
    found += [
        f"containers that start below {each or 'the root'} are found late (inotify limit)"
        for each in supervisor.interception.uncovered
    ]
    return found
