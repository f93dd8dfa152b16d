"""Write a log that systemd's journal can sort, if the journal is what our output goes to.

systemd connects a service's output to the journal, and says so in JOURNAL_STREAM:
the device and inode of that connection. Each line then begins with its priority in
angle brackets (sd-daemon(3)), which the journal takes off. Elsewhere, a terminal
or a file, nobody would: there a line begins with the program and its level.
"""

import logging
import os
import sys
from typing import TextIO, override

STREAM = "JOURNAL_STREAM"
ERROR = 3
_PRIORITIES = ((logging.ERROR, ERROR), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_journal(stream: TextIO) -> bool:
    """Return whether this stream is the journal's: our output may be redirected since."""
    device, _, inode = os.environ.get(STREAM, "").partition(":")
    try:
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return (device, inode) == (str(facts.st_dev), str(facts.st_ino))


def log_to_stderr(program: str, level: str = "warning") -> None:
    """Log to standard error from now on, as who reads it there can use it."""
    handler = logging.StreamHandler(sys.stderr)
    journal = is_journal(sys.stderr)
    handler.setFormatter(Formatter(program) if journal else _for_people(program))
    logging.basicConfig(handlers=[handler], level=level.upper())


def prefixed(text: str, priority: int) -> str:
    """Return `text` with the priority before each of its lines: a traceback has many."""
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def _for_people(program: str) -> logging.Formatter:
    return logging.Formatter(f"{program}: %(levelname)s: %(message)s")


class Formatter(logging.Formatter):
    """Lines for the journal."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: %(message)s")

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its priority."""
        return prefixed(super().format(record), _priority(record.levelno))


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)
