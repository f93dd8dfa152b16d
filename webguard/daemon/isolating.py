"""Isolation, as the control socket offers it: on, off, and how it stands.

In this form it ends with the daemon, and the status says so.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netiso import links
from netiso.isolation import (
    HostNetwork,
    Interfaces,
    Isolation,
    Link,
    Reach,
    Standing,
    sort_interfaces,
    standing,
)
from webguard.daemon.interception import Interception
from webguard.daemon.workers import Tell
from webguard.errors import HostError, RefusedError
from webguard.model import Container, Severity
from webguard.policy.config import Isolation as Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Who switched it on, when and why."""

    at: int
    who: str
    reason: str


class Isolating:
    """The one switch, and its story."""

    def __init__(
        self,
        interception: Interception,
        tell: Tell,
        *,
        cut_connections: Callable[[], None],
        leaving: Callable[[], bool],
    ) -> None:
        self._interception = interception
        self._tell = tell
        self._cut_connections = cut_connections
        self._leaving = leaving
        self._order: _Order | None = None

    def on(self, settings: Settings, *, who: str, reason: str) -> dict[str, Any]:
        """Cut the containers off. Raises `HostError`; then nothing has changed, and it says so.

        `RefusedError` while two daemons change places: it would end with the one,
        or the other would go on to redirect what is cut.
        """
        if self._leaving():
            raise RefusedError(
                "isolation would not last: another webguard is about to take over"
                " (wait for it, then say it again)"
            )
        isolation = Isolation(host_network=HostNetwork(settings.host_network), spare=settings.spare)
        self._interception.isolate(isolation)
        if self._interception.withheld:
            # What was redirected before keeps its mapping in the kernel: end it here.
            self._cut_connections()
        self._order = _Order(at=time.time_ns(), who=who, reason=reason)
        done = f"host-network containers: {isolation.host_network}"
        outcome = f"{done}; {reason}" if reason else done
        self._tell("isolation.on", severity=Severity.MEDIUM, subject=who, outcome=outcome)
        return self.status()

    def off(self, *, who: str, reason: str) -> dict[str, Any]:
        """Restore everything. No error if it is off already."""
        # Not whether an order is known: what the kernel cuts can always be restored.
        if self._interception.kernel.isolation is not None:
            self._interception.lift()
            self._order = None
            self._tell("isolation.off", severity=Severity.MEDIUM, subject=who, outcome=reason)
        return self.status()

    def brief(self) -> dict[str, Any]:
        """Return how the switch stands."""
        isolation = self._interception.kernel.isolation
        if isolation is None:
            return {"isolated": False}
        order = self._order or _Order(at=0, who="", reason="")
        return {
            "isolated": True,
            "host_network": str(isolation.host_network),
            "inspecting": not self._interception.withheld,
            "since": order.at,
            "who": order.who,
            "reason": order.reason,
        }

    def status(self) -> dict[str, Any]:
        """Return what is cut, measured now, for every container."""
        isolation = self._interception.kernel.isolation
        brief = self.brief()
        if isolation is None:
            return {**brief, "containers": []}
        differences = self._interception.kernel.differences()
        gaps = [*self._interception.kernel.gaps(), *differences]
        every = links.read_links()
        interfaces = sort_interfaces(every, isolation.spare)
        return {
            **brief,
            "degraded": gaps,
            "limits": list(self._interception.kernel.limits()),
            "ends": "with the daemon, or by `webguard isolation off`",
            "packets": dict(self._interception.kernel.cut_packets()),
            "containers": [
                _container(each, _standing(each, every, interfaces, isolation))
                for each in sorted(self._interception.inventory.containers, key=lambda one: one.key)
            ],
        }


def _standing(
    container: Container,
    every: tuple[Link, ...],
    interfaces: Interfaces,
    isolation: Isolation,
) -> Standing:
    reach: Reach | None
    try:
        reach = links.reach_of(container.pid, every)
    except (HostError, OSError):
        reach = None
    return standing(container.network, reach, interfaces, isolation)


def _container(container: Container, found: Standing) -> dict[str, Any]:
    return {
        "id": container.id,
        "name": container.name,
        "network": str(container.network),
        "cut": str(found.cut),
        "why": found.why,
    }
