"""Whether traffic is inspected at this moment, measured and never assumed.

"Protected" needs three facts, none older than two seconds:

- a self-test connection went through the *container* rule to a worker,
- the kernel still holds exactly the rules that were loaded,
- every worker has reported.

What is missing is named, for `webguard status` and for the event.
"""

import time
from dataclasses import dataclass, field

FRESH = 1.5
"""Seconds. Under the two that the promise "no longer said within 2 s" gives us."""

_COUNT_FRESH = 1.9
"""Seconds. Workers report every second; a probe comes more often."""


@dataclass(slots=True)
class Protection:
    """The facts, as they come in."""

    expected_workers: int
    leaving: bool = False  # the daemon stops, and says so itself
    live: bool = False  # the container redirect is switched on
    why_not_live: str = "starting"
    v6: bool = True  # this host has a route to test IPv6 with
    seen: dict[str, float] = field(default_factory=dict)  # family -> last probe that was seen
    reported: dict[int, float] = field(default_factory=dict)  # worker -> last count
    differences: tuple[str, ...] = ("not yet read back",)
    verified: float = 0.0
    switched_off: str = ""  # why nothing is to be inspected, although all works

    def missing(self, now: float | None = None) -> tuple[str, ...]:
        """Return what keeps us from saying "protected", in sentences; empty if nothing does."""
        off = (self.switched_off,) if self.switched_off else ()
        return (*off, *self.failing(now))

    def failing(self, now: float | None = None) -> tuple[str, ...]:
        """Return what does not work as it should, whatever the settings ask for."""
        at = time.monotonic() if now is None else now
        if not self.live:
            return (f"interception is off: {self.why_not_live}",)
        found = [
            f"the self-test over {family} was not seen by a worker"
            for family in ("IPv4", "IPv6")
            if (family == "IPv4" or self.v6) and at - self.seen.get(family, -FRESH) >= FRESH
        ]
        if (silent := self.silent(at)) > 0:
            found.append(f"{silent} of {self.expected_workers} workers do not report")
        if self.differences:
            found.extend(f"the kernel's rules differ: {each}" for each in self.differences)
        elif at - self.verified >= FRESH * 2:
            found.append("the kernel's rules were not read back")
        return tuple(found)

    def silent(self, now: float | None = None) -> int:
        """Return how many workers have not reported lately: they hang, or there are none."""
        at = time.monotonic() if now is None else now
        lately = sum(at - when < _COUNT_FRESH for when in self.reported.values())
        return max(0, self.expected_workers - lately)
