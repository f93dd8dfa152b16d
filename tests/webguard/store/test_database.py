"""The record's file: its tables, its versions, its size, and what becomes of a damaged one."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from importlib import resources
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from webguard.errors import HostError
from webguard.store import migrate
from webguard.store.database import DamagedError, Database, put_aside
from webguard.store.schema import HEAD, metadata, row
from webguard.store.writer import Keep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.webguard.store.conftest import Maker, StoreMaker

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def two_thousand(tmp_path_factory: pytest.TempPathFactory, make: Maker) -> Path:
    """A record of two thousand events, one second apart."""
    path = tmp_path_factory.mktemp("two-thousand") / "events.db"
    with closing(Database(path)) as database:
        events = [make.event(at=number * 10**9) for number in range(2000)]
        database.insert([row(each) for each in events])
    return path


@pytest.fixture
def filled(path: Path, two_thousand: Path) -> Path:
    """The same, to be spoilt."""
    shutil.copy(two_thousand, path)
    return path


def times(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [at // 10**9 for (at,) in connection.execute("SELECT at FROM events ORDER BY seq")]


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_the_migrations_make_the_tables_that_we_use(path: Path) -> None:
    Database(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_newest_migration_is_the_one_of_the_tables() -> None:
    config = Config()
    config.set_main_option("script_location", migrate.SCRIPTS)

    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_record_of_a_later_version_is_named_and_left_alone(
    filled: Path, a_store: StoreMaker
) -> None:
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    before = filled.read_bytes()

    with pytest.raises(
        HostError, match=r"its schema is 0999, this webguard knows 0001 \(install the webguard"
    ):
        a_store()

    assert filled.read_bytes() == before


_NEXT = '''
"""The next."""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.add_column("events", sa.Column("extra", sa.String, nullable=False, server_default="new"))
    {more}
'''


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make this webguard one that has a second migration."""

    def write(more: str) -> None:
        folder = tmp_path / "100% new"
        shutil.copytree(str(resources.files("webguard.store") / "migrations"), folder)
        (folder / "versions/v0002_next.py").write_text(_NEXT.format(more=more))
        monkeypatch.setattr(migrate, "SCRIPTS", str(folder))
        monkeypatch.setattr(migrate, "HEAD", "0002")

    return write


def test_a_record_of_an_earlier_version_is_migrated_and_a_copy_is_kept(
    filled: Path, next_version: Callable[[str], None], a_store: StoreMaker
) -> None:
    before = times(filled)
    next_version("")

    store = a_store()
    assert store.flush(30)
    store.close(30)

    (copy,) = filled.parent.glob("events.db.schema-0001-*")
    assert (version(filled), version(copy)) == ("0002", "0001")
    assert times(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(filled)) as connection:
        told = connection.execute(
            "SELECT subject, extra FROM events WHERE kind = 'store.migrated'"
        ).fetchall()
    assert len(told) == 1
    assert copy.name in told[0][0]


def test_a_migration_that_fails_leaves_the_old_version(
    filled: Path, next_version: Callable[[str], None], a_store: StoreMaker
) -> None:
    before = times(filled)
    next_version('op.execute("INSERT INTO nowhere VALUES (1)")')

    with pytest.raises(HostError, match="no such table: nowhere"):
        a_store()

    assert version(filled) == "0001"
    assert times(filled) == before
    with closing(sqlite3.connect(filled)) as connection:
        columns = [each[1] for each in connection.execute("PRAGMA table_info(events)")]
    assert "extra" not in columns


def prune(path: Path, *, oldest: int = 0, most: int = 100 * MIB) -> int:
    """Keep house until there is nothing to do. Returns how many steps that took."""
    steps = 1
    with closing(Database(path)) as database:
        while database.prune(oldest=oldest, most=most):
            steps += 1
            assert steps < 1000
    return steps


def test_old_events_are_removed_in_small_steps(filled: Path) -> None:
    steps = prune(filled, oldest=1200 * 10**9)

    assert times(filled) == list(range(1200, 2000))
    assert steps > 2


def test_the_oldest_arrivals_go_when_there_is_too_much(filled: Path) -> None:
    prune(filled, most=MIB)
    left = times(filled)

    assert 100 < len(left) < 2000
    assert left == list(range(2000 - len(left), 2000))
    assert filled.stat().st_size <= MIB


def test_space_is_given_back(filled: Path) -> None:
    before = filled.stat().st_size

    steps = prune(filled, oldest=1500 * 10**9)

    assert steps < 20
    assert filled.stat().st_size < before * 0.4


def test_nothing_is_done_when_all_is_within_bounds(filled: Path) -> None:
    assert prune(filled) == 1
    assert len(times(filled)) == 2000


def test_a_bound_that_is_too_small_for_anything_ends_all_the_same(filled: Path) -> None:
    prune(filled, most=1)

    assert times(filled) == []


def spoil(path: Path, seed: int = 1) -> None:
    """Write random bytes over some pages, but not the first."""
    dice = random.Random(seed)
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(dice.randbytes(4096))


def spoil_one(path: Path) -> None:
    """Write random bytes over one page, where no new event comes near."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(random.Random(3).randbytes(4096))


def spoil_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(random.Random(2).randbytes(4096))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def test_damage_is_seen_by_the_check(filled: Path) -> None:
    spoil(filled)

    with pytest.raises(DamagedError), closing(Database(filled)) as database:
        database.check()


@pytest.mark.parametrize(
    "damage", [spoil, spoil_one, spoil_head, cut], ids=["pages", "one page", "head", "cut"]
)
def test_a_damaged_record_is_put_aside_and_a_new_one_is_begun(
    filled: Path, make: Maker, a_store: StoreMaker, damage: Callable[[Path], None]
) -> None:
    damage(filled)
    spoilt = filled.read_bytes()

    store, event = a_store(), make.event()
    store.record(event)
    assert store.flush(30)
    found = list(store.events())

    assert event in found
    (told,) = [each for each in found if each.kind == "store.damaged"]
    (aside,) = filled.parent.glob("events.db.corrupt-*")
    assert aside.name in told.subject
    assert aside.read_bytes() == spoilt
    assert store.state().problem == ""


def test_damage_that_a_reader_meets_is_repaired_by_the_writer(
    filled: Path, make: Maker, a_store: StoreMaker
) -> None:
    store = a_store(keep=Keep(days=100_000))  # retention is not to find it first
    with store.follow() as live:
        store.record(make.event())
        assert store.flush(30)
        spoil_one(filled)
        with pytest.raises(HostError, match="read the record"):
            list(store.events())
        seen = [each.kind for each in live.take(30)]
        while "store.damaged" not in seen:
            seen += [each.kind for each in live.take(30)]
    last = make.event()
    store.record(last)
    assert store.flush(30)

    assert last in store.events()


@pytest.mark.parametrize("gone", ["events.db", "events.db-wal"], ids=["file", "log"])
@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_file_that_is_taken_away_is_noticed(
    path: Path, make: Maker, a_store: StoreMaker, gone: str, how: str
) -> None:
    store = a_store()
    store.record(make.event())
    assert store.flush(30)
    if how == "deleted":
        path.with_name(gone).unlink()
    else:
        path.with_name(gone).rename(path.with_name("away"))

    event = make.event()
    store.record(event)
    assert store.flush(30)
    found = list(store.events())
    store.close(30)

    assert event in found
    assert [each.kind for each in found].count("store.replaced") == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == len(found)


def test_a_damaging_disk_is_not_filled_with_damaged_files(path: Path) -> None:
    names = []
    for number in range(5):
        path.write_bytes(b"%d" % number)
        path.with_name("events.db-wal").write_bytes(b"log of %d" % number)
        names.append(put_aside(path))

    left = sorted(each.name for each in path.parent.iterdir())

    assert names == sorted(set(names))
    assert left == sorted([*names[-3:], *(f"{name}-wal" for name in names[-3:])])
