"""Events as JSON lines: the documented record format (docs/operate.md).

One object a line, keys as in `webguard.model.Event`, fields at their defaults
left out. A disk or a reader that does not take a line costs that line, never
the daemon: lines are counted as lost and the count is written when there is
room again.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from webguard.model import Event

_EVENT = TypeAdapter(Event)


def as_object(event: Event) -> dict[str, Any]:
    """Return the event as plain JSON values, without what is not known."""
    whole: dict[str, Any] = _EVENT.dump_python(event, mode="json", exclude_defaults=True)
    return {"schema": event.schema, **whole, "severity": event.severity.name.lower()}


class Lines:
    """Write events to a descriptor, one JSON object a line.

    A pipe whose reader is slow may hold the caller for as long as one write
    takes; a full disk or a closed reader is survived and counted.
    """

    def __init__(self, descriptor: int, stamp: Callable[[], tuple[str, int]]) -> None:
        self._descriptor = descriptor
        self._stamp = stamp
        self.lost = 0

    def record(self, event: Event) -> None:
        """Write one event. Never raises."""
        if self.lost and self._write(self._loss(self.lost)):
            self.lost = 0
        if not self._write(as_object(event)):
            self.lost += 1

    def _loss(self, count: int) -> dict[str, Any]:
        event_id, at = self._stamp()
        return {
            "schema": 1,
            "id": event_id,
            "at": at,
            "kind": "loss",
            "severity": "high",
            "subject": f"{count} events could not be written",
            "remedy": "make room where the daemon's output goes",
        }

    def _write(self, whole: dict[str, Any]) -> bool:
        line = json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n"
        data = line.encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return False
        return True
