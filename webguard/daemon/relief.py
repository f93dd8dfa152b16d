"""Take the CA out of the containers that hold it while no daemon runs: for `webguard purge`.

The records say which containers those are, the engines and the kernel which of
them run. Only the files of a container that runs can be changed: a stopped one
is named, with what an operator can do about it. What an engine says is deleted
holds nothing any more.
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from certs import install, publish
from certs.certificate import our_certificate
from certs.install import Outcome
from webguard.daemon.material import read_settings
from webguard.daemon.paths import Paths
from webguard.errors import ConfigError, HostError, NotFoundError, RefusedError
from webguard.model import Container
from webguard.policy.config import Config
from webguard.runtimes import proc
from webguard.runtimes.docker import Docker
from webguard.runtimes.inventory import Inventory
from webguard.runtimes.podman import Podman


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A container that was given our certificate and not relieved of it."""

    who: str  # for a person
    container: Container | None = None  # if it runs
    remedy: str = ""  # what the operator can do if it does not


def holders(paths: Paths) -> tuple[Holder, ...]:
    """Return who holds our certificate, as far as records tell. Asks the engines.

    Raises `HostError` where there are records, and no cgroups to find containers by.
    """
    records = sorted(paths.records.glob("certs-*.json"))
    if not records:
        return ()
    inventory = _inventory(paths)
    asyncio.run(inventory.refresh())
    found = (_holder(each, inventory) for each in records)
    return tuple(each for each in found if each is not None)


def relieve(container: Container, paths: Paths) -> None:
    """Take our certificate out of a running container. Raises `WebguardError` with what is left."""
    public = publish.place(paths.root)
    try:
        ours = our_certificate(public.read_bytes())
    except (OSError, ValueError) as error:
        raise HostError(
            f"read {public}", str(error), "webguard run puts it there again; then stop it"
        ) from error
    report = install.remove(container, ours=ours, state=paths.records)
    if left := [
        e for e in report.stores if e.outcome not in (Outcome.REMOVED, Outcome.NOT_PRESENT)
    ]:
        said = "; ".join(f"{each.path}: {each.outcome} ({each.reason})" for each in left)
        raise RefusedError(f"it is still in {said}")


def _inventory(paths: Paths) -> Inventory:
    try:
        runtimes = read_settings(paths, None).runtimes
    except ConfigError:  # what is about to be removed need not be right
        runtimes = Config().runtimes
    return Inventory(
        root=proc.unified_root(),
        engines=(Docker(runtimes.docker), Podman(runtimes.podman)),
        parents=runtimes.cgroup_parents,
    )


def _holder(record: Path, inventory: Inventory) -> Holder | None:
    try:
        told = json.loads(record.read_bytes())
        runtime, id_ = str(told["runtime"]), str(told["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(who=str(record), remedy=f"nobody can read this record: rm {record}")
    runtime = inventory.engine_of(id_) or runtime
    if inventory.is_deleted(runtime, id_):
        return None
    who = f"{runtime} container {id_[:12]!a}"
    try:
        container = inventory.find(id_)
    except RefusedError:  # its engine knows it, and it does not run
        program = f"{runtime} start {id_[:12]}"
        return Holder(who=who, remedy=f"{program}, then purge again; or {runtime} rm {id_[:12]}")
    except NotFoundError:
        silent = "start it, then purge again; or, if it was deleted, rm " + str(record)
        return Holder(who=who, remedy=f"it does not run, and its engine does not answer: {silent}")
    return Holder(who=f"{who} ({container.name!a})" if container.name else who, container=container)
