"""The record's file: open it, write to it, keep it small, put a damaged one aside.

A `Database` belongs to the thread that opened it. Its errors are sorted by what
can be done: `DamagedError` (put the file aside and begin a new one), `HostError`
(the operator must act), and everything in `UNAVAILABLE` (try again later).
"""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Select, create_engine, event, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from webguard.errors import HostError
from webguard.store import migrate
from webguard.store.schema import events, meta

UNAVAILABLE = (OSError, sqlite3.Error, SQLAlchemyError, HostError)
"""What the machine may answer for a while: full, read-only, locked, gone."""

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# Milliseconds that we wait for another process's lock. Longer waits are the caller's affair.
_BUSY = 2000
# The write-ahead log is cut to this after a checkpoint; it is not part of `keep_bytes`.
_LOG = 16 * 1024 * 1024
# A step of retention: about 10 ms of a write lock.
_ROWS = 500
_PAGES = 256
# A damaging disk must not fill itself with copies of what it damaged.
_ASIDE = 3


class DamagedError(Exception):
    """The file is no sound data base any more."""


class Database:
    """An open record. `migrated` is the name of the copy made before migrating, or ""."""

    def __init__(self, path: Path) -> None:
        """Open the record at `path`, made if it is not there, of this version's tables."""
        self.path = path
        self.migrated = ""
        _make(path)
        self._engine = _engine(path)
        try:
            with _sorted():
                self._connection = self._engine.connect()
                self.migrated = migrate.prepare(self._connection, path, _moment())
                # Not before: it would alter a file that turns out not to be ours.
                self._run("journal_mode=WAL")
                self.since = self._begun()
        except BaseException:
            self._engine.dispose()
            raise
        self._files = self._identities()

    def check(self) -> None:
        """Read the whole file. Raises `DamagedError` when it does not hang together."""
        with _sorted():
            found = self._connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            self._connection.rollback()
        if found != "ok":
            raise DamagedError(str(found))

    def there(self) -> bool:
        """Return whether what we write to can still be found by its name."""
        return self._identities() == self._files

    def insert(self, rows: list[dict[str, Any]]) -> tuple[int, int]:
        """Add rows, all or none.

        Returns how many of them were new (by their ids), and the number of the newest.
        """
        with _sorted(), self._connection.begin():
            done = self._connection.execute(
                insert(events).on_conflict_do_nothing(index_elements=["id"]), rows
            )
            newest = self._connection.execute(select(func.max(events.c.seq))).scalar()
        return done.rowcount, newest or 0

    def last(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        with _sorted():
            newest = self._connection.execute(select(func.max(events.c.seq))).scalar()
            self._connection.rollback()
        return newest or 0

    def size(self) -> int:
        """Return the size of the file once the log is written back. Cheap enough for each batch."""
        with _sorted():
            # A cursor of its own: SQLAlchemy's way to it costs as much as an insert.
            cursor = self._connection.connection.cursor()
            pages, size = (
                int(cursor.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "page_size")
            )
            cursor.close()
        return pages * size

    def prune(self, *, oldest: int, most: int) -> bool:
        """Do one step to keep nothing from before `oldest` (ns) and at most `most` bytes.

        Returns whether there is more to do.
        """
        with _sorted():
            pages, free, size = self._pages()
            rows = self._oldest() if (pages - free) * size > most else self._before(oldest)
            if rows:
                with self._connection.begin():
                    self._connection.execute(events.delete().where(events.c.seq.in_(rows)))
                return True
            # Free pages are used again, so give back only what is too much.
            if free and (pages * size > most or free * 4 > pages):
                self._run(f"incremental_vacuum({_PAGES})")
                return self._pages()[0] < pages
        return False

    def close(self) -> None:
        """Write the log back into the file, if nobody else reads it, and close."""
        with suppress(*UNAVAILABLE):
            self._connection.close()
        self._engine.dispose()

    def _begun(self) -> int:
        """Return when this record was begun (ns), 0 if it does not say so."""
        query = select(meta.c.value).where(meta.c.key == "begun")
        value = self._connection.execute(query).scalar() or ""
        self._connection.rollback()
        return int(value) if value.isdecimal() else 0

    def _pages(self) -> tuple[int, int, int]:
        """Return the number of pages, how many of them are free, and the size of one."""
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (
            int(self._connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0) for name in names
        )
        self._connection.rollback()
        return pages, free, size

    def _oldest(self) -> list[int]:
        return self._numbers(select(events.c.seq).order_by(events.c.seq).limit(_ROWS))

    def _before(self, oldest: int) -> list[int]:
        early = select(events.c.seq).where(events.c.at < oldest)
        return self._numbers(early.order_by(events.c.at).limit(_ROWS))

    def _numbers(self, query: Select[int]) -> list[int]:
        found = list(self._connection.execute(query).scalars())
        self._connection.rollback()
        return found

    def _run(self, pragma: str) -> None:
        """Run a pragma outside of any transaction, to its end.

        SQLAlchemy asks no rows of a statement without columns, and each row that
        is asked of incremental_vacuum frees one page.
        """
        cursor = self._connection.connection.cursor()
        cursor.execute(f"PRAGMA {pragma}")
        cursor.fetchall()
        cursor.close()

    def _identities(self) -> tuple[tuple[int, int], ...]:
        found = []
        for name in (self.path.name, self.path.name + "-wal"):
            try:
                status = self.path.with_name(name).stat()
            except OSError:
                found.append((0, 0))
            else:
                found.append((status.st_dev, status.st_ino))
        return tuple(found)


def put_aside(path: Path) -> str:
    """Rename a damaged record and its log, and return its new name. Keeps the newest few."""
    name = f"{path.name}.corrupt-{_moment()}"
    with suppress(FileNotFoundError):
        path.with_name(path.name + "-wal").rename(path.with_name(name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    path.rename(path.with_name(name))
    aside = sorted(
        each
        for each in path.parent.glob(f"{path.name}.corrupt-*")
        if not each.name.endswith("-wal")
    )
    for each in aside[:-_ASIDE]:
        each.unlink()
        each.with_name(each.name + "-wal").unlink(missing_ok=True)
    return name


def reading(path: Path) -> Engine:
    """Return an engine that can only read, with connections of its own."""

    def connect() -> sqlite3.Connection:
        return _set(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def safe(path: Path) -> None:
    """Raise `HostError` when somebody else can write or read the record, or put one in its place.

    A file that does not exist is safe.
    """
    folder = path.parent
    try:
        status = folder.stat()
    except FileNotFoundError as error:
        raise _refusal(
            folder, "there is no such folder", f"make it: install -d -m 700 {folder}"
        ) from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise _refusal(folder, "others can write to this folder", f"chown and chmod 700 {folder}")
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _refusal(path, "it is not a plain file of one name", "move it away")
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise _refusal(
                path, "others can open it", f"see who wrote it, then chown and chmod 600 {path}"
            )


def _refusal(path: Path, answer: str, remedy: str) -> HostError:
    return HostError(f"open the record {path}", answer, remedy)


def _make(path: Path) -> None:
    """Make the file if it is not there. SQLite gives its log and its index the same mode."""
    safe(path)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _engine(path: Path) -> Engine:
    # We say where a transaction begins: Python's sqlite3 would begin none for CREATE TABLE.
    def connect() -> sqlite3.Connection:
        return _set(
            sqlite3.connect(path, isolation_level=None),
            # It takes effect in an empty file only, and would write to any other.
            *(["auto_vacuum=INCREMENTAL"] if path.stat().st_size == 0 else []),
            "synchronous=NORMAL",  # a power cut may cost the last events, never the record
            "foreign_keys=ON",
            "cell_size_check=ON",  # sees damage before it is copied on
            f"journal_size_limit={_LOG}",
        )

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _set(connection: sqlite3.Connection, *pragmas: str) -> sqlite3.Connection:
    try:
        for pragma in (f"busy_timeout={_BUSY}", "trusted_schema=OFF", *pragmas):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _sorted() -> Iterator[None]:
    """Tell damage from what may pass."""
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError) as error:
        if damage(error):
            raise DamagedError(said(error)) from error
        raise


def damage(error: BaseException) -> bool:
    """Return whether SQLite says that the file is no sound data base."""
    return migrate.primary(error) in _DAMAGE


def said(error: BaseException) -> str:
    """Return what SQLite or the kernel said, without the statement: its values are events."""
    return str(error.orig if isinstance(error, DBAPIError) else error)


def _moment() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
