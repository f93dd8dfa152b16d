"""Bring a record's tables to this version.

A record of a later version is refused: we do not know what its columns mean.
One of an earlier version is copied to a file beside it, then migrated in one
transaction, so that it is either of the old version or of the new one.
"""

import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from webguard.errors import HostError
from webguard.store.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = "webguard.store:migrations"

# What a migration does wrong itself. Others are the machine's (a full disk) or damage.
_OURS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)

_MOVE = "move the file away to begin a new record"


def prepare(connection: Connection, path: Path, moment: str) -> str:
    """Make the tables of `connection` those of this version. Returns the name of the copy, or "".

    The copy is kept beside `path`, and bears `moment`. Raises `HostError` for a
    record that is not ours or is of a later version, and when it cannot be migrated.
    """
    found = _revision(connection, path)
    connection.rollback()
    if found == HEAD:
        return ""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells each step
    # Alembic takes a while to import, and is needed about once a year.
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", SCRIPTS.replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    known = [each.revision for each in script.walk_revisions()]
    if found and found not in known:
        raise HostError(
            f"open the record {path}",
            f"its schema is {found}, this webguard knows {known[0]}",
            f"install the webguard that wrote it, or {_MOVE}",
        )
    if found == known[0]:
        return ""
    copy = _copy(connection, path, f"{path.name}.schema-{found}-{moment}") if found else ""
    _upgrade(connection, config, path)
    return copy


def _revision(connection: Connection, path: Path) -> str:
    """Return the revision of the tables, "" if there are none."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return ""
    if "alembic_version" in tables:
        one = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if one:
            return str(one)
    raise HostError(f"open the record {path}", "it is another program's data base", _MOVE)


def _copy(connection: Connection, path: Path, name: str) -> str:
    """Copy the whole data base to a new file beside it."""
    target = path.with_name(name)
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    cursor = connection.connection.cursor()
    try:
        # Not sqlite3's backup(): on a locked file that tries for ever.
        cursor.execute("VACUUM INTO ?", (str(target),))
        os.fsync(descriptor)
    except BaseException:
        target.unlink()  # half a copy is worse than none
        raise
    finally:
        cursor.close()
        os.close(descriptor)
    return name


def _upgrade(connection: Connection, config: "Config", path: Path) -> None:
    from alembic import command
    from alembic.util import CommandError

    config.attributes["connection"] = connection
    try:
        with connection.begin():
            command.upgrade(config, "head")
    except DBAPIError as error:
        if primary(error) in _OURS:
            raise HostError(f"migrate the record {path}", str(error.orig), _MOVE) from error
        raise
    except CommandError as error:
        raise HostError(f"migrate the record {path}", str(error), _MOVE) from error


def primary(error: BaseException) -> int:
    """Return SQLite's primary result code, 0 if the error is not SQLite's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF
