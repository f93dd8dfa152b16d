"""The tables of the record, and an event as a row of them.

`migrations/` is what makes the tables; a test compares the two. To change them:
change them here, add a migration, and raise `HEAD`.

The `event` column is the whole truth, in the documented record format. The
other columns are copies to search by, bounded, and never read back.
"""

import json
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

from webguard.model import Event
from webguard.store.lines import as_object
from webguard.store.parse import as_event, valid

HEAD = "0001"
"""The revision of these tables."""

metadata = MetaData()

events = Table(
    "events",
    metadata,
    # The order of arrival. Ids are ordered by their makers' clocks, so one that arrives late
    # would be skipped by a reader that goes on after the last id it saw. Never used twice
    # (AUTOINCREMENT), whatever retention removed.
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("severity", Integer, nullable=False),
    Column("subject", String, nullable=False),
    Column("container_id", String, nullable=False),
    Column("container_name", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("event", Text, nullable=False),
    Index("events_at", "at"),
    sqlite_autoincrement=True,
)

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

# A message of a worker has at most 128 KiB. Nothing that we make comes near this.
_LARGEST = 1024 * 1024
_LONGEST = 512  # characters, in the columns to search by
_LAST = 2**63 - 1  # SQLite's largest integer


def row(event: Event) -> dict[str, Any]:
    """Return the event as a row that SQLite will take, whatever its fields hold.

    Raises `ValueError` for one that is too large to keep.
    """
    whole = json.dumps(as_object(event), ensure_ascii=False, separators=(",", ":"))
    if len(whole) > _LARGEST:
        raise ValueError(f"an event of {len(whole)} characters")
    container = event.container
    return {
        "id": _text(event.id),
        "at": min(max(event.at, 0), _LAST),
        "kind": _text(event.kind),
        "severity": int(event.severity),
        "subject": _text(event.subject),
        "container_id": _text(container.id) if container else "",
        "container_name": _text(container.name) if container else "",
        "outcome": _text(event.outcome),
        "event": valid(whole, escape="\\\\"),
    }


def event_of(stored: str) -> Event:
    """Return the event of an `event` column. Raises `ValueError` when that is not one."""
    whole = json.loads(stored)
    if not isinstance(whole, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all damage
    return as_event(whole)


def _text(untrusted: str) -> str:
    return valid(untrusted[:_LONGEST])
