"""Learn of events as they happen, in the process that records them."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from webguard.model import Event
from webguard.ports import Stamp
from webguard.store.inbox import Inbox
from webguard.store.select import Choice

_SIZE = 8 * 1024 * 1024
_SLOW = "take them faster, or ask for less: the record still has them"


class Follower:
    """Events since it began, for one reader. A reader that is too slow loses some, and is told.

    `start` is where it joins on: `Store.events(until=start)` is all that was
    there before, and nothing of what comes here.

    `wake` is called in the thread of the writer when there is something to take
    after there was nothing; it must not wait. In asyncio:
    `lambda: loop.call_soon_threadsafe(ready.set)`.
    """

    def __init__(
        self,
        choice: Choice,
        *,
        start: int,
        stamp: Stamp,
        most: int,
        wake: Callable[[], object] | None,
        leave: Callable[["Follower"], None],
    ) -> None:
        self.start = start
        self._choice, self._wake, self._leave = choice, wake, leave
        self._inbox = Inbox(
            events=most,
            size=_SIZE,
            stamp=stamp,
            missing="were not shown here",
            remedy=_SLOW,
            arrived=self._woken,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def offer(self, event: Event) -> None:
        """Take note of an event, if it was asked for. For the writer."""
        if self._choice.takes(event):
            self._inbox.put(event)

    def take(self, wait: float = 0, most: int = 256) -> list[Event]:
        """Return what has happened, oldest first. Waits up to so many seconds for something."""
        return self._inbox.take(most, wait)

    def close(self) -> None:
        """Be told no more."""
        self._leave(self)

    def _woken(self) -> None:
        if self._wake is not None:
            try:
                self._wake()
            except RuntimeError:  # its event loop has gone, and so has it
                self.close()
