"""The policy over the control socket: what is in force, what would change, and changing it."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from webguard.daemon import material, reloading
from webguard.daemon.supervisor import Supervisor
from webguard.model import Container
from webguard.policy.config import Config
from webguard.policy.diff import ContainerChange, compare
from webguard.policy.show import effective


async def reload(supervisor: Supervisor, config: Path | None) -> dict[str, Any]:
    """Read everything again and put it in force; all workers have it when this returns.

    Raises `ConfigError` or `HostError`; then the old policy stays in force.
    """
    async with supervisor.reloading:
        generation = supervisor.material.policy.generation + 1
        new = await asyncio.to_thread(material.read, supervisor.paths, config, generation)
        await reloading.put_in_force(supervisor, new)
    return {"generation": generation}


async def diff(supervisor: Supervisor, config: Path | None) -> dict[str, Any]:
    """Say what a reload would change, and for which container. Changes nothing."""
    old = supervisor.material
    new = await asyncio.to_thread(
        material.read, supervisor.paths, config, old.policy.generation + 1
    )
    containers = supervisor.interception.inventory.containers
    found = await asyncio.to_thread(compare, old.policy, new.policy, containers)
    return {
        "containers": [_change(each) for each in found.containers],
        "lists": [asdict(each) for each in found.lists],
        "settings": settings_between(old.config, new.config),
        "rules_changed": old.rules != new.rules,
    }


def show(supervisor: Supervisor, query: str) -> dict[str, Any]:
    """Return what is in force for a container, or ("") for every one and for the unknown."""
    inventory = supervisor.interception.inventory
    asked: list[Container | None] = [inventory.find(query)] if query else []
    if not query:
        asked = [*sorted(inventory.containers, key=lambda each: each.key), None]
    policy = supervisor.material.policy
    return {
        "generation": policy.generation,
        "containers": [{**_who(each), **asdict(effective(policy, each))} for each in asked],
    }


def settings_between(old: Config, new: Config) -> list[dict[str, Any]]:
    """Return the keys of the settings file whose values differ, with both."""
    before, after = (_flat(each.model_dump(mode="json")) for each in (old, new))
    return [
        {"setting": name, "before": before[name], "after": value}
        for name, value in after.items()
        if before[name] != value
    ]


def _change(found: ContainerChange) -> dict[str, Any]:
    return {**_who(found.container), "changes": [asdict(each) for each in found.changes]}


def _who(container: Container | None) -> dict[str, Any]:
    return {
        "id": container.id if container else "",
        "name": container.name if container else "(containers that nobody knows)",
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
