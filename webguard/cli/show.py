"""Print for people or for programs.

Containers choose their own names; on a terminal a name could move the cursor or
retitle the window. So nothing printed for people holds control characters.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from webguard.daemon import journal


def plain(value: object) -> str:
    """Return `value` as text that is safe on a terminal."""
    return "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value)
    )


def line(text: str = "") -> None:
    """Print one line for people."""
    sys.stdout.write(text + "\n")


def as_json(value: Any) -> None:  # noqa: ANN401 - whatever the daemon answered
    """Print one object for programs."""
    sys.stdout.write(
        json.dumps(value, ensure_ascii=False, indent=2 if _terminal() else None) + "\n"
    )


def complain(text: str) -> None:
    """Print one line on standard error."""
    said = f"webguard: {plain(text)}"
    if journal.is_journal(sys.stderr):
        said = journal.prefixed(said, journal.ERROR)
    sys.stderr.write(said + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: drawn on a terminal, tab-separated elsewhere."""
    if not _terminal():
        for row in rows:
            line("\t".join(plain(each) for each in row))
        return
    plainly = bool(os.environ.get("NO_COLOR"))
    drawn = Table(box=None, pad_edge=False, header_style="" if plainly else "table.header")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(plain(each)) for each in row))
    Console(no_color=plainly).print(drawn)


def _terminal() -> bool:
    return sys.stdout.isatty()
