"""Certificates in containers, as the control socket offers them."""

import asyncio
from dataclasses import dataclass
from typing import Any

from certs import install, publish, records
from certs.install import Report
from webguard.daemon.supervisor import Supervisor
from webguard.errors import NotFoundError, WebguardError
from webguard.model import Container

# Two operators at one container would each write a record without the other's entries.
_ONE_AT_A_TIME = asyncio.Lock()


@dataclass(frozen=True, slots=True)
class _Target:
    """A container, or why the query names none."""

    query: str
    container: Container | None
    error: str = ""
    code: int = 0


async def do(
    supervisor: Supervisor, deed: str, queries: tuple[str, ...], *, everything: bool
) -> dict[str, Any]:
    """Install, remove or look, container by container.

    One that cannot be done does not keep the others from it: each has its own
    result, with `error` and `exit_code` where it was refused.
    """
    async with _ONE_AT_A_TIME:
        return await _do(supervisor, deed, queries, everything=everything)


async def _do(
    supervisor: Supervisor, deed: str, queries: tuple[str, ...], *, everything: bool
) -> dict[str, Any]:
    inventory = supervisor.interception.inventory
    records_are = supervisor.paths.records, inventory.is_deleted, inventory.engine_of
    await asyncio.to_thread(records.prune, *records_are)
    targets = [_find(supervisor, query) for query in queries]
    if everything:
        running = supervisor.interception.inventory.containers
        targets = [_Target(each.name or each.id, each) for each in running]
    if not targets:
        raise NotFoundError("no container was named, and none is running (webguard containers)")
    results = [await _one(supervisor, deed, each) for each in targets]
    if deed != "status":
        for each in results:
            supervisor.tell(
                f"cert.{deed}",
                subject=each["id"] or each["query"],
                outcome=each["error"] or each["level"],
            )
    return {"results": results}


def _find(supervisor: Supervisor, query: str) -> _Target:
    try:
        return _Target(query, supervisor.interception.inventory.find(query))
    except WebguardError as error:
        return _Target(query, None, str(error), error.exit_code)


async def _one(supervisor: Supervisor, deed: str, target: _Target) -> dict[str, Any]:
    if target.container is None:
        return _result(target, None)
    container = target.container
    state = supervisor.paths.records
    trusted_at = supervisor.trusted.get(container.key)
    try:
        match deed:
            case "install":
                roots = await asyncio.to_thread(
                    publish.upstream_roots, supervisor.paths.root, (), supervisor.authority
                )
                report = await asyncio.to_thread(
                    install.install,
                    container,
                    ours=supervisor.authority,
                    roots=roots,
                    state=state,
                    trusted_at=trusted_at,
                )
            case "remove":
                report = await asyncio.to_thread(
                    install.remove, container, ours=supervisor.authority, state=state
                )
                supervisor.trusted.pop(container.key, None)
            case _:
                report = await asyncio.to_thread(
                    install.status,
                    container,
                    ours=supervisor.authority,
                    state=state,
                    trusted_at=trusted_at,
                )
    except WebguardError as error:
        return _result(_Target(target.query, container, str(error), error.exit_code), None)
    return _result(target, report)


def _result(target: _Target, report: Report | None) -> dict[str, Any]:
    container = target.container
    return {
        "query": target.query,
        "id": container.id if container else "",
        "name": container.name if container else "",
        "runtime": container.runtime if container else "",
        "level": str(report.level) if report else "",
        "family": report.family if report else "",
        "restart_needed": bool(report and report.restart_needed),
        "stores": [
            {
                "path": each.path,
                "outcome": str(each.outcome),
                "reason": each.reason,
                "remedy": each.remedy,
            }
            for each in (report.stores if report else ())
        ],
        "error": target.error,
        "exit_code": target.code,
    }
