"""The thread that writes the record, and what it does when it cannot.

- The disk is full or read-only, the file is locked: the events at hand are kept
  and tried again, and the queue behind them fills.
- The file is damaged: it is put aside, and a new one is begun.
- The file was deleted or moved away: a new one is begun. Without looking, we
  would write to a file that nobody can ever open.

Each is told as an event of kind "store.…", to those who follow at once, and with
losses to `told`: what the record itself has to say no caller of it knows.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webguard.model import Event, Severity
from webguard.ports import Record, Stamp
from webguard.store.database import UNAVAILABLE, DamagedError, Database, put_aside, said
from webguard.store.inbox import Inbox
from webguard.store.schema import row

log = logging.getLogger(__name__)

_DAY = 24 * 60 * 60 * 1_000_000_000

_BATCH = 512
_RETRY = 0.5  # seconds
_LOOK = 5.0  # seconds between looks after the file when nothing happens
_PRUNE = 60.0  # seconds between looks for what is too old, each of which costs like a batch

_KNOWN = "their ids were in the record already"
_MISFIT = "they were too large"
_BUG = "the record failed, see the daemon's log"

type Show = Callable[[list[Event], int | None], None]
"""Told of events once: with the newest number if they are written, with None if not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What retention leaves: the events of so many days, in a file of at most so many bytes.

    The write-ahead log beside the file comes on top, up to about 16 MiB.
    """

    days: int = 30
    bytes: int = 512 * 1024 * 1024


class Writer:
    """Takes events from an inbox, and writes them in batches. `run` is the thread's."""

    def __init__(
        self, path: Path, inbox: Inbox, *, stamp: Stamp, keep: Keep, show: Show, told: Record
    ) -> None:
        self.problem = ""
        self.since = 0
        self.finished = 0  # events that were taken from the inbox, and are done with
        self._path, self._inbox = path, inbox
        self._stamp, self._keep, self._show, self._told = stamp, keep, show, told
        self._database: Database | None = None
        self._held: list[Event] = []
        self._shown = 0  # how many of those at hand the followers have seen
        self._newest = 0  # the record's last number
        self._suspicious = True
        self._more = False  # retention has more to do
        self._pruned = -math.inf
        self._ending = threading.Event()

    def run(self) -> None:
        """Write until told to stop, and then what is left."""
        while True:
            ending = self._ending.is_set()
            done = self._take(0 if ending or self._more else _LOOK) and self._attempt()
            if ending and not (done and (self._held or len(self._inbox) or self._inbox.owing)):
                break
            if not done:
                self._ending.wait(_RETRY)
        if left := len(self._held) + len(self._inbox):
            log.error("%d events were not recorded: %s", left, self.problem)
        self._close()

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._ending.set()
        self._inbox.wake()

    def suspect(self) -> None:
        """Look whether the file is sound, soon: somebody could not read it."""
        self._suspicious = True
        self._inbox.wake()

    def tell_migrated(self, copy: str) -> None:
        """Tell that the record is of a new version. From outside only before `run`."""
        self._tell(
            "store.migrated",
            f"the record was brought to this version; a copy of the old one is {copy}",
            severity=Severity.INFORMATIONAL,
            remedy="delete the copy when you need it no more",
        )

    def _take(self, wait: float) -> bool:
        """Have something at hand, if there is anything. Returns whether that went well."""
        try:
            if not self._held:
                self._held = self._inbox.take(_BATCH, wait)
                if self._inbox.telling:
                    self._told(self._held[-1])
        except Exception:  # as in `_attempt`; nothing was taken, so it is tried again
            log.exception("the record failed")
            self.problem = _BUG
            return False
        return True

    def _attempt(self) -> bool:
        """Write what is at hand, and keep the file small. Returns whether that went well."""
        try:
            try:
                self._write()
            except DamagedError as error:
                self._begin_anew(error)
                self._write()
        except (DamagedError, *UNAVAILABLE) as error:
            self._fail(error)
            return False
        except Exception:  # a bug may cost events, but must not end this thread in silence
            log.exception("the record failed")
            self._lose(len(self._held), _BUG)
            self._finish(self._newest)
            self._close()
        return True

    def _write(self) -> None:
        database = self._opened()
        if self._held:
            rows = self._rows()
            added, newest = database.insert(rows)
            # A worker that was taken over can send an event under another one's id.
            self._lose(len(rows) - added, _KNOWN)
            self._finish(newest)
        self._prune(database)
        if self.problem:
            log.info("the record %s is written again", self._path)
            self.problem = ""

    def _prune(self, database: Database) -> None:
        """Do a step of retention when it is time, or when the file has grown too large."""
        due = self._more or time.monotonic() - self._pruned >= _PRUNE
        if due or database.size() > self._keep.bytes:
            oldest = self._stamp()[1] - self._keep.days * _DAY
            self._more = database.prune(oldest=oldest, most=self._keep.bytes)
            self._pruned = time.monotonic()

    def _opened(self) -> Database:
        """Return the data base, sound and in its place."""
        if self._database is not None and not self._database.there():
            self._close()
            self._tell(
                "store.replaced",
                f"{self._path.name} was deleted or moved away while it was in use",
                remedy="move records only while the daemon is stopped",
            )
        if self._suspicious:
            self._close()  # what it keeps in memory may be sounder than the file
        if self._database is None:
            self._database = Database(self._path)
            if self._database.migrated:
                self.tell_migrated(self._database.migrated)
            if not self._shown:
                self._show([], self._database.last())
            self.since = self._database.since
        if self._suspicious:
            self._database.check()
            self._suspicious = False
        return self._database

    def _rows(self) -> list[dict[str, Any]]:
        """Return the rows of what is at hand, which is then only what can be written."""
        rows, fit, shown = [], [], self._shown
        for index, each in enumerate(self._held):
            try:
                rows.append(row(each))
                fit.append(each)
            except ValueError:
                self._inbox.lose(1, each.at, each.at, _MISFIT)
                self._shown -= index < shown
        self._held = fit
        return rows

    def _lose(self, count: int, reason: str) -> None:
        if count:
            times = [each.at for each in self._held]
            self._inbox.lose(count, min(times), max(times), reason)

    def _finish(self, newest: int) -> None:
        """Be done with what is at hand, and show what was not seen yet."""
        self._newest = newest
        unseen = self._held[self._shown :]
        self._held, self._shown = [], 0
        self.finished = self._inbox.taken
        self._inbox.told()
        self._show(unseen, newest)

    def _begin_anew(self, error: DamagedError) -> None:
        """Put the damaged file aside."""
        self._close()
        aside = put_aside(self._path)
        log.warning("the record %s was damaged (%s): it is now %s", self._path, error, aside)
        self._tell(
            "store.damaged",
            f"the record was damaged ({error}) and is now {aside}; a new one was begun",
            remedy="look after the disk; sqlite3's .recover may read what is left",
        )

    def _fail(self, error: BaseException) -> None:
        """Say once that nothing can be written, and show the events all the same."""
        self._close()
        problem = said(error)
        if not self.problem:
            log.warning("the record %s cannot be written: %s", self._path, problem)
            self._tell(
                "store.failed",
                f"the record cannot be written: {problem}",
                remedy="make room where the record is, or let it be written",
            )
        self.problem = problem
        unseen = self._held[self._shown :]
        self._shown = len(self._held)
        self._show(unseen, None)

    def _tell(
        self, kind: str, subject: str, *, remedy: str, severity: Severity = Severity.HIGH
    ) -> None:
        """Add an event of our own to those at hand."""
        event_id, at = self._stamp()
        event = Event(
            id=event_id, at=at, kind=kind, severity=severity, subject=subject, remedy=remedy
        )
        self._held.append(event)
        self._told(event)

    def _close(self) -> None:
        database, self._database = self._database, None
        self.since = 0
        if database is not None:
            database.close()
