"""One engine's part of the inventory: what it last told, and whether it is well.

What it told is kept while it is absent or hangs: its containers go on running, and
what they are called does not change by that.
"""

from webguard.errors import HostError
from webguard.runtimes.docker import Docker, Listed


class Source:
    """An engine, and what it told. Never raises for it."""

    def __init__(self, engine: Docker) -> None:
        self.engine = engine
        self.listed: dict[str, Listed] = {}  # by full id, running or not
        self.present = False
        self._unwell = ""

    @property
    def answers(self) -> bool:
        """Whether what it told is what it would tell now."""
        return self.present and not self._unwell

    def problem(self, *, needed: bool) -> str:
        """Return what is wrong with it; that it is absent only if it is `needed`."""
        if self._unwell or self.present or not needed:
            return self._unwell
        return str(self.engine.absence())

    async def ask(self) -> None:
        """Get the list of containers anew."""
        try:
            listed = await self.engine.list_containers()
        except HostError as error:
            self._unwell = str(error)
            return
        self._unwell = ""
        self.present = listed is not None
        if listed is not None:
            self.listed = {each.id: each for each in listed}

    async def look_up(self, id_: str, within: float) -> None:
        """Learn about one container, if the engine knows it and says so in time."""
        try:
            inspected = await self.engine.inspect(id_, within=within)
        except HostError as error:
            self._unwell = str(error)
            return
        if inspected is not None:
            self.listed[id_] = inspected.listed()
