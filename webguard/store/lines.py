"""Events as JSON lines: the documented record format (docs/operate.md).

One object a line, keys as in `webguard.model.Event`, fields at their defaults
left out. A disk or a reader that does not take a line costs that line, never
the daemon: lines are counted as lost and the count is written when there is
room again.

For systemd's journal a line begins with its priority, and leaves out what more
people read there than may read the record: what an address asks for after its
path, which is where programs put keys, and a container's labels.
"""

import json
import os
import re
import select
import threading
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from webguard.model import Event

_EVENT = TypeAdapter(Event)
_MOST_UNWRITTEN = 1024 * 1024  # bytes that wait for a reader
# syslog(3): critical, error, warning, notice, informational
_PRIORITIES = {"critical": 2, "high": 3, "medium": 4, "low": 5}
_INFORMATIONAL = 6


def as_object(event: Event) -> dict[str, Any]:
    """Return the event as plain JSON values, without what is not known."""
    whole: dict[str, Any] = _EVENT.dump_python(event, mode="json", exclude_defaults=True)
    return {"schema": event.schema, **whole, "severity": event.severity.name.lower()}


def for_journal(whole: dict[str, Any]) -> dict[str, Any]:
    """Return `as_object`'s record without what may be a secret; its id leads to all of it."""
    short = dict(whole)
    if "container" in whole:
        short["container"] = {k: v for k, v in whole["container"].items() if k != "labels"}
    if "http" in whole:
        short["http"] = {**whole["http"], "url": _place(whole["http"].get("url", ""))}
    # Of a tunnel, too, whose event has no `http` and an address for its subject.
    if "http" in whole or "://" in whole.get("subject", ""):
        short["subject"] = _place(whole.get("subject", ""))
    return short


def _place(url: str) -> str:
    """Return an address up to its path."""
    return re.split(r"[?#]", url, maxsplit=1)[0]


class Lines:
    """Write events to a descriptor, one JSON object a line.

    A reader that is slow, or has stopped reading, never holds the caller up: some
    lines wait for it, the rest is counted as lost, like those that a full disk or
    a closed reader does not take. `journal` says that systemd's is the reader.
    Any thread may write one.
    """

    def __init__(
        self, descriptor: int, stamp: Callable[[], tuple[str, int]], *, journal: bool = False
    ) -> None:
        self._descriptor = descriptor
        self._unwritten = b""
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._stamp = stamp
        self._journal = journal
        self._busy = threading.Lock()
        self.lost = 0

    def record(self, event: Event) -> None:
        """Write one event. Never raises."""
        with self._busy:
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
        shown = for_journal(whole) if self._journal else whole
        line = json.dumps(shown, ensure_ascii=False, separators=(",", ":")) + "\n"
        if self._journal:
            line = f"<{_PRIORITIES.get(whole['severity'], _INFORMATIONAL)}>{line}"
        data = line.encode("utf-8", "backslashreplace")
        if len(self._unwritten) + len(data) > _MOST_UNWRITTEN:
            return False
        self._unwritten += data
        try:
            while self._unwritten and self._room.poll(0):
                # A pipe that has room takes this much at once: the reader's pace is not ours.
                written = os.write(self._descriptor, self._unwritten[: select.PIPE_BUF])
                self._unwritten = self._unwritten[written:]
        except OSError:
            self._unwritten = self._unwritten[: -len(data)] if self._whole(data) else b""
            return False
        return True

    def _whole(self, data: bytes) -> bool:
        """Return whether nothing of the newest line was written, so that it can be taken back."""
        return len(self._unwritten) >= len(data)
