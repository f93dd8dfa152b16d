"""Read the record, beside its writer, by a connection that cannot write.

Events are read a page at a time, each page whole and in a moment of its own: a
reader that stops in the middle must not hold the log open, or it grows without end.
"""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Row, and_, func, select

from webguard.errors import HostError
from webguard.model import Event, Severity
from webguard.store.database import UNAVAILABLE, damage, reading, safe, said
from webguard.store.inbox import LOSS
from webguard.store.schema import event_of, events
from webguard.store.select import Choice

_PAGE = 256


class DamagedRecordError(HostError):
    """The record cannot be read because its file is damaged."""


def read(
    path: Path, choice: Choice, *, after: str | None, until: int | None, limit: int | None
) -> Iterator[Event]:
    """Yield the chosen events in the order they arrived in.

    `after` the event of that id (from the oldest on, if it is not there), and
    `until` the event of that number. `limit`: the next so many with `after`,
    otherwise the newest so many. Raises `HostError`, anywhere on the way, when
    the record cannot be read.
    """
    if limit is not None and limit <= 0:
        return
    try:
        safe(path)
        with reading(path).connect() as connection:
            last = _last(connection) if until is None else until
            if after is not None:
                first = _number(connection, after)
            else:
                first = _newest(connection, choice, last, limit)
            yield from _pages(connection, choice, first, last, limit)
    except HostError:
        raise
    except UNAVAILABLE as error:
        failure = DamagedRecordError if damage(error) else HostError
        raise failure(
            f"read the record {path}",
            said(error),
            "the newest events of kind store say what is wrong with it",
        ) from error


def _pages(
    connection: Connection, choice: Choice, first: int, last: int, limit: int | None
) -> Iterator[Event]:
    left = limit
    while left is None or left > 0:
        page = connection.execute(
            select(events.c.seq, events.c.id, events.c.at, events.c.event)
            .where(events.c.seq > first, events.c.seq <= last, choice.condition())
            .order_by(events.c.seq)
            .limit(_PAGE if left is None else min(left, _PAGE))
        ).all()
        for each in page:
            yield _event(each)
        if len(page) < _PAGE:
            return
        first = page[-1].seq
        left = None if left is None else left - len(page)


def _event(row: Row[int, str, int, str]) -> Event:
    try:
        return event_of(row.event)
    except ValueError:  # one row's damage must not hide the others
        return Event(
            id=str(row.id),
            at=int(row.at),
            kind=LOSS,
            severity=Severity.HIGH,
            subject=f"the event number {row.seq} of the record is not readable",
        )


def _last(connection: Connection) -> int:
    return connection.execute(select(func.max(events.c.seq))).scalar() or 0


def _number(connection: Connection, event_id: str) -> int:
    query = select(events.c.seq).where(events.c.id == event_id)
    return connection.execute(query).scalar() or 0


def _newest(connection: Connection, choice: Choice, last: int, limit: int | None) -> int:
    """Return the number before the first of the newest `limit` events."""
    if limit is None:
        return 0
    query = (
        select(events.c.seq)
        .where(and_(events.c.seq <= last, choice.condition()))
        .order_by(events.c.seq.desc())
        .limit(1)
        .offset(limit - 1)
    )
    first = connection.execute(query).scalar()
    return 0 if first is None else first - 1
