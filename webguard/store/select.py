"""Which events a reader wants: the same question asked of a row and of an event."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, true

from webguard.model import Event
from webguard.store.schema import events

# As short as people write an id. Shorter ones are names.
_SHORT_ID = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """Events of one of `kinds` (a family too: "web" is every "web.…") and of one `container`.

    The container is given by name, full id, or at least 12 digits of the id.
    Nothing given means all.
    """

    kinds: tuple[str, ...] = ()
    container: str = ""

    def takes(self, event: Event) -> bool:
        """Return whether the event was asked for."""
        if self.kinds and not any(
            event.kind == kind or event.kind.startswith(f"{kind}.") for kind in self.kinds
        ):
            return False
        if not self.container:
            return True
        if event.container is None:
            return False
        return self.container == event.container.name or (
            len(self.container) >= _SHORT_ID and event.container.id.startswith(self.container)
        )

    def condition(self) -> ColumnElement[bool]:
        """Return the same question for the data base."""
        kinds = [
            or_(events.c.kind == kind, _starts(events.c.kind, f"{kind}.")) for kind in self.kinds
        ]
        return and_(or_(*kinds) if kinds else true(), self._of_container())

    def _of_container(self) -> ColumnElement[bool]:
        if not self.container:
            return true()
        named = events.c.container_name == self.container
        if len(self.container) < _SHORT_ID:
            return named
        return or_(named, _starts(events.c.container_id, self.container))


def _starts(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    # LIKE ignores case, and reads % and _.
    return func.substr(column, 1, len(text)) == text
