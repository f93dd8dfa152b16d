"""Tell which container opened a connection.

The kernel gives the cgroup id of the asking socket; the daemon pushes which
container a cgroup belongs to. A cgroup that is not known yet (a container whose
first packet was faster than its start event, or a sub-cgroup) is asked of the
daemon while the connection is held, for half a second at most (architecture:
after that the connection is served as "unknown").
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from addons.sockdiag import Endpoint, SockDiag
from webguard.model import Container
from webguard.ports import Identify

HOLD = 0.5
"""Seconds that a connection waits for its container's name."""

# Sub-cgroups are remembered too; a container could make many.
_REMEMBERED = 8192


class Owners:
    """From a socket's ends to the container that holds it."""

    def __init__(self, *, ask: Identify, diag: SockDiag) -> None:
        self._ask = ask
        self._diag = diag
        self._known: OrderedDict[int, Container] = OrderedDict()
        self._looked: OrderedDict[tuple[Endpoint, Endpoint], int | None] = OrderedDict()

    def learn(self, containers: Iterable[tuple[int, Container]]) -> None:
        """Take what the daemon says now about these cgroup ids."""
        for cgroup, container in containers:
            self._known[cgroup] = container
            self._known.move_to_end(cgroup)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, container: Container) -> None:
        """Drop a run that ended: its ids may come back for somebody else."""
        for cgroup in [each for each, value in self._known.items() if value.key == container.key]:
            del self._known[cgroup]

    def look(self, client: Endpoint, wanted: Endpoint) -> None:
        """Ask the kernel at once, for `owner`: a socket that was closed soon has no cgroup."""
        self._looked[client, wanted] = self._diag.cgroup_of(client, wanted)
        while len(self._looked) > _REMEMBERED:
            self._looked.popitem(last=False)

    async def owner(
        self, client: Endpoint, wanted: Endpoint
    ) -> tuple[int | None, Container | None]:
        """Return the cgroup id and container of the socket that connects `client` to `wanted`."""
        cgroup = self._looked.pop((client, wanted), None) or self._diag.cgroup_of(client, wanted)
        if cgroup is None:
            return None, None
        if (found := self._known.get(cgroup)) is not None:
            return cgroup, found
        try:
            async with asyncio.timeout(HOLD):
                found = await self._ask(cgroup)
        except TimeoutError:
            found = None
        if found is not None:
            self.learn([(cgroup, found)])
        return cgroup, found
