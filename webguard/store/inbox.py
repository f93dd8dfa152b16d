"""A bounded queue of events between threads. What does not fit is counted, and told as an event.

It is bounded by number and by text, because the text is a container's: ten
thousand events of the longest URLs would be hundreds of megabytes.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime

from webguard.model import Event, Severity
from webguard.ports import Stamp

LOSS = "loss"
"""The kind of the event that says how many others are missing."""

FULL = "they came faster than they were taken"

_FIXED = 1024  # bytes that an event costs without its text
_LATEST = int(datetime.max.replace(tzinfo=UTC).timestamp()) - 1  # seconds


class Inbox:
    """Take events from any thread, give them to one. `put` and `lose` never wait for the taker."""

    def __init__(
        self,
        *,
        events: int,
        size: int,
        stamp: Stamp,
        missing: str,
        remedy: str,
        arrived: Callable[[], object] | None = None,
    ) -> None:
        """Hold up to so many `events` and about `size` bytes of them.

        `missing` says of lost events what happened to them, as in "were not recorded".
        `arrived` is called by `put` when there is something to take after there was nothing.
        """
        self._most, self._largest = events, size
        self._arrived = arrived
        self._stamp, self._missing, self._remedy = stamp, missing, remedy
        self._changed = threading.Condition()
        self._events: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._lost: Counter[str] = Counter()
        self._range = (0, 0)
        self._telling = False
        self.accepted = self.taken = self.lost = 0  # events, ever

    def __len__(self) -> int:
        return len(self._events)

    @property
    def owing(self) -> bool:
        """Whether there is a loss that was not taken, or not `told` after it was."""
        return bool(self._lost) or self._telling

    @property
    def telling(self) -> bool:
        """Whether the last of what was taken is a loss, and not `told` yet."""
        return self._telling

    def told(self) -> None:
        """Be done with the loss that was taken last, if there was one."""
        self._telling = False

    def put(self, event: Event) -> bool:
        """Queue the event, or count it as lost and return False."""
        size = weight(event)
        with self._changed:
            # Under the same lock as `take`: looked at before it, the taker may empty it in
            # between, and sleep over what is put then.
            empty = not self._events and not self._lost
            fits = len(self._events) < self._most and self._size + size <= self._largest
            if fits:
                self._events.append((event, size))
                self._size += size
                self.accepted += 1
                self._changed.notify_all()
            else:
                self._lose(1, event.at, event.at, FULL)
        if empty and self._arrived is not None:
            self._arrived()
        return fits

    def lose(self, count: int, first: int, last: int, reason: str) -> None:
        """Count events that were taken, of between two times, and came to nothing."""
        with self._changed:
            self._lose(count, first, last, reason)

    def wake(self) -> None:
        """Let `take` return, even with nothing."""
        with self._changed:
            self._changed.notify_all()

    def take(self, most: int, wait: float) -> list[Event]:
        """Return the oldest events, and a loss, if there was one, after them.

        Waits up to so many seconds for the first.
        """
        with self._changed:
            if not self._events and not self._lost and wait > 0:
                self._changed.wait(wait)
            # First, because it may fail, and then nothing must have been taken.
            loss = [self._loss()] if self._lost else []
            taken: list[Event] = []
            while self._events and len(taken) < most:
                event, size = self._events.popleft()
                self._size -= size
                taken.append(event)
            self.taken += len(taken)
            self._telling = self._telling or bool(loss)
            return taken + loss

    def _lose(self, count: int, first: int, last: int, reason: str) -> None:
        earliest, latest = self._range if self._lost else (first, last)
        self._range = min(earliest, first), max(latest, last)
        self._lost[reason] += count
        self.lost += count

    def _loss(self) -> Event:
        event_id, at = self._stamp()
        count = self._lost.total()
        first, last = map(_iso, self._range)
        reasons = "; ".join(f"{number}: {reason}" for reason, number in self._lost.items())
        self._lost.clear()
        return Event(
            id=event_id,
            at=at,
            kind=LOSS,
            severity=Severity.HIGH,
            subject=f"{count} events {self._missing}, from {first} to {last}",
            outcome=reasons,
            remedy=self._remedy,
        )


def weight(event: Event) -> int:
    """Return about how many bytes of memory the event keeps."""
    texts = [event.subject, event.outcome, event.remedy, event.kind, event.id]
    if event.http:
        texts += (event.http.url, event.http.method)
    if event.verdict:
        texts.append(event.verdict.reason)
    if event.scan:
        texts += (each.reason + each.where for each in event.scan.unscanned)
        texts += (each.name + each.member for each in event.scan.detections)
    if event.process:
        texts += (event.process.exe, *event.process.argv)
    # Containers are few and shared by their events.
    return _FIXED + sum(map(len, texts))


def _iso(at: int) -> str:
    # A worker that was taken over can claim any time, also one that no float holds.
    seconds = min(max(at // 1_000_000_000, 0), _LATEST)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
