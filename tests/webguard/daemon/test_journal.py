"""What the journal gets, and that nobody else gets it."""

import logging
import os
from pathlib import Path

import pytest

from webguard.daemon import journal


def say(level: int, message: str) -> str:
    record = logging.LogRecord("x", level, __file__, 1, message, None, None)
    return journal.Formatter("webguardd").format(record)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, 3),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
    ],
)
def test_a_line_begins_with_its_priority(level: int, priority: int) -> None:
    assert say(level, "hello") == f"<{priority}>webguardd: hello"


def test_each_line_of_a_traceback_has_the_priority() -> None:
    with pytest.raises(ValueError, match="number") as raised:
        int("no\nnumber")
    why = (raised.type, raised.value, raised.tb)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "no", None, why)
    lines = journal.Formatter("webguardd").format(record).splitlines()
    assert len(lines) > 3
    assert [each[:3] for each in lines] == ["<3>"] * len(lines)


def test_only_the_very_stream_that_systemd_named_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "one").open("w") as one, (tmp_path / "two").open("w") as two:
        facts = os.fstat(one.fileno())
        monkeypatch.setenv(journal.STREAM, f"{facts.st_dev}:{facts.st_ino}")
        assert journal.is_journal(one)
        assert not journal.is_journal(two)
        monkeypatch.delenv(journal.STREAM)
        assert not journal.is_journal(one)
    monkeypatch.setenv(journal.STREAM, f"{facts.st_dev}:{facts.st_ino}")
    assert not journal.is_journal(one)
