"""How much of a worker one container may hold: connections cost descriptors and memory.

Without a bound one container that opens connections and says nothing leaves none to
the others, nor to the self-test, and inspection would be switched off for all. What is
over the bound is reset, and an event says whose it was. Several containers together can
still fill a worker: then new connections of all are reset, but the self-test's are not.
"""

import time
from collections import Counter

from webguard.model import Container, Event, Severity
from webguard.ports import Record, Stamp

# For one connection: the client's, the server's, and a second one of the client's at its end.
_EACH = 3
# A worker's own, those of connections whose owner is still being asked for, and the self-test's.
_OWN = 256
# About 128 KiB of memory each.
_MOST = 8192
_SHARE = 4
_TELL_EVERY = 60.0  # seconds

type _Key = tuple[str, str, int] | int | None


class Crowd:
    """Counts connections, by container and, where that is unknown, by cgroup."""

    def __init__(self, *, descriptors: int, record: Record, stamp: Stamp) -> None:
        """`descriptors` is how many this process may have open."""
        self.most = max(1, min(_MOST, (descriptors - _OWN) // _EACH))
        self.most_each = max(1, self.most // _SHARE)
        self._record = record
        self._stamp = stamp
        self._open: Counter[_Key] = Counter()
        self._all = 0
        self._told: dict[_Key, float] = {}

    def enter(self, cgroup: int | None, container: Container | None, wanted: str) -> bool:
        """Count a connection to `wanted`, or return False: there are too many. Then see `leave`."""
        key = _key(cgroup, container)
        if self._all < self.most and self._open[key] < self.most_each:
            self._open[key] += 1
            self._all += 1
            return True
        self._tell(key, container, wanted)
        if not self._open[key]:
            del self._open[key]
        return False

    def leave(self, cgroup: int | None, container: Container | None) -> None:
        """One that was let in has ended."""
        key = _key(cgroup, container)
        self._all -= 1
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def _tell(self, key: _Key, container: Container | None, wanted: str) -> None:
        now = time.monotonic()
        self._told = {k: at for k, at in self._told.items() if now - at < _TELL_EVERY}
        if key in self._told:
            return
        self._told[key] = now
        event_id, at = self._stamp()
        held = self._open[key]
        self._record(
            Event(
                id=event_id,
                at=at,
                kind="web.failed",
                severity=Severity.MEDIUM,
                subject=wanted,
                container=container,
                outcome=f"refused: {held} of {self._all} connections that are open are its own",
                remedy="see what it connects to; more web.workers can hold more connections",
            )
        )


def _key(cgroup: int | None, container: Container | None) -> _Key:
    return cgroup if container is None else container.key
