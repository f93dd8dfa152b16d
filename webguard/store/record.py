"""The record: every event, kept in a data base by one thread, shown to those who follow.

`Store.record` never waits and never raises: traffic does not stop because a
disk is full. What cannot be kept is counted, and told as an event of kind
"loss" as soon as there is room; silence never means calm.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from webguard.errors import HostError
from webguard.model import Event
from webguard.ports import Record, Stamp
from webguard.store.database import UNAVAILABLE, DamagedError, Database
from webguard.store.follow import Follower
from webguard.store.inbox import Inbox
from webguard.store.reading import DamagedRecordError, read
from webguard.store.select import Choice
from webguard.store.writer import Keep, Writer

_ROOM = "make room where the record is, or let it be written"
_DEAD = "the thread that writes it has ended: see the daemon's log, and restart the daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the record fares."""

    since: int  # when it was begun (ns), 0 while it cannot be opened
    problem: str  # why it cannot be written now, "" if it can
    waiting: int  # events not written yet
    lost: int  # events lost since the daemon started


class Store:
    """One record and the thread that writes it. Its methods may be called in any thread.

    `record`, `follow` and `state` never wait; `events`, `flush` and `close` do.
    """

    def __init__(
        self,
        path: Path,
        *,
        stamp: Stamp,
        keep: Keep,
        told: Record = lambda _event: None,
        most_waiting: int = 8192,
        waiting_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """Open the record at `path` and start writing.

        `told` gets what the record itself has to say (losses, and kind "store.…"), mostly
        in the thread that writes. It must not record that: it is on its way already.

        Raises `HostError` for what only the operator can put right: a record of
        a later version, a file that is somebody else's. A disk that is full or
        read-only is not among it: that may pass.
        """
        self.path = path
        self._stamp = stamp
        self._inbox = Inbox(
            events=most_waiting,
            size=waiting_bytes,
            stamp=stamp,
            missing="were not recorded",
            remedy=_ROOM,
        )
        self._changed = threading.Condition()
        self._followers: tuple[Follower, ...] = ()
        # The number in the record of the last event that was shown, or was there before.
        migrated, self._newest = _first_look(path)
        self._unwritten: list[Event] = []  # shown, but not in the record yet
        self._writer = Writer(path, self._inbox, stamp=stamp, keep=keep, show=self._show, told=told)
        if migrated:
            self._writer.tell_migrated(migrated)
        self._thread = threading.Thread(target=self._writer.run, name="record", daemon=True)
        self._thread.start()

    def record(self, event: Event) -> None:
        """Keep the event. Never waits and never raises."""
        self._inbox.put(event)

    def events(
        self,
        *,
        after: str | None = None,
        until: int | None = None,
        kinds: Collection[str] = (),
        container: str = "",
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Yield recorded events, the newest last; see `Choice`, and `reading.read` for the bounds.

        Raises `HostError`, anywhere on the way, when the record cannot be read.
        """
        choice = Choice(tuple(kinds), container)
        try:
            yield from read(self.path, choice, after=after, until=until, limit=limit)
        except DamagedRecordError:
            self._writer.suspect()
            raise

    def follow(
        self,
        *,
        kinds: Collection[str] = (),
        container: str = "",
        most: int = 1024,
        wake: Callable[[], object] | None = None,
    ) -> Follower:
        """Collect new events for one reader, up to `most` that it has not taken; see `Follower`."""
        with self._changed:
            follower = Follower(
                Choice(tuple(kinds), container),
                start=self._newest,
                stamp=self._stamp,
                most=most,
                wake=wake,
                leave=self._leave,
            )
            for each in self._unwritten:
                follower.offer(each)
            self._followers = (*self._followers, follower)
        return follower

    def flush(self, timeout: float) -> bool:
        """Wait until what was recorded before this call is written. Returns whether it is."""
        target = self._inbox.accepted
        with self._changed:
            return self._changed.wait_for(
                lambda: self._writer.finished >= target and not self._inbox.owing, timeout
            )

    def state(self) -> State:
        """Return how the record fares."""
        dead = "" if self._thread.is_alive() else _DEAD
        return State(
            since=self._writer.since,
            problem=self._writer.problem or dead,
            waiting=self._inbox.accepted - self._writer.finished,
            lost=self._inbox.lost,
        )

    def close(self, timeout: float = 5) -> None:
        """Write what is there and end. Takes up to `timeout` seconds; the log tells the rest."""
        self._writer.stop()
        self._thread.join(timeout)

    def _show(self, events: list[Event], newest: int | None) -> None:
        """Show events to the followers. `newest` is None while they are not written."""
        with self._changed:
            if newest is None:
                self._unwritten += events
            else:
                self._unwritten, self._newest = [], newest
            for each in events:
                for follower in self._followers:
                    follower.offer(each)
            self._changed.notify_all()

    def _leave(self, follower: Follower) -> None:
        with self._changed:
            self._followers = tuple(each for each in self._followers if each is not follower)


def _first_look(path: Path) -> tuple[str, int]:
    """Open the record once, for what the caller must know.

    Returns the copy made before migrating, if one was, and the newest number.
    """
    try:
        database = Database(path)
        try:
            return database.migrated, database.last()
        finally:
            database.close()
    except HostError:
        raise
    except (DamagedError, *UNAVAILABLE):
        return "", 0  # the writer meets it again, and tells
