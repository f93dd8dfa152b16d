"""`webguard scan`: scan files and folders on demand, and report.

Its exit codes are those that scripts for the vendor's scanner know, so that
nothing here may end with 1: that would say "found and cleaned", and it is
Python's own code for a bug.
"""

import base64
import contextlib
import json as jsonlib
import os
import sys
import time
import traceback
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from webguard.cli import show
from webguard.cli.context import context_of
from webguard.daemon.paths import SCAN_USER, Paths
from webguard.errors import (
    ConfigError,
    PermissionDeniedError,
    UnreachableError,
    WebguardError,
)
from webguard.model import ENGINE

if TYPE_CHECKING:
    from rich.progress import Progress

    from webguard.daemon.ondemand import Job, Outcome, Tally

CLEAN = 0
UNSCANNED = 10
FOUND = 50
FAILED = 100

# What means the same for every command.
_COMMON = (ConfigError, UnreachableError, PermissionDeniedError)
_MIB = 1024**2
_ROWS = 1000  # of each kind, in a report for people; a hostile tree can hold millions
_REDRAW = 0.1  # seconds


def scan(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, the summary last.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no report: only the exit code.")
    ] = False,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", "-x", help="Enter no mount below PATHS.")
    ] = False,
    max_size: Annotated[
        int,
        typer.Option(help="Do not scan files larger than so many MiB.", min=1, max=1024),
    ] = 64,
) -> None:
    """Scan files and folders for malware, and report. Changes nothing.

    Needs no daemon, and uses the rules and hash lists that it would use. Links
    are followed in PATHS only, not below; devices, FIFOs and sockets are not
    opened; /proc, /sys and their like are passed over, network and FUSE file
    systems unless they are named. Files are read in a process without rights
    (the user webguard-scan). Who is not root scans what he can read.

    JSON: a path that is not UTF-8 has U+FFFD in "path", and its exact bytes in
    "path_base64".

    \b
    Examples:
      webguard scan /var/www
      webguard scan --one-file-system --json / > report.jsonl
      webguard scan --quiet upload.zip || echo "not clean"

    \b
    Exit codes: 0 clean, 10 some were not scanned, 50 something was found,
    100 a path does not exist, the scan was interrupted or could not be done;
    2 usage or configuration, 77 not allowed. Of several, 50 goes first, then 100.
    """
    report = _Report(json=json, quiet=quiet)
    try:
        code = _scanned(context_of(context).paths, paths, max_size, one_file_system, report)
        sys.stdout.flush()
    except _COMMON:
        raise
    except WebguardError as error:
        show.complain(str(error))
        code = FAILED
    except BrokenPipeError:
        # Whoever read our report stopped; Python's own last flush must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except (OSError, KeyboardInterrupt) as error:
        show.complain(f"the scan ended early: {str(error) or 'interrupted'}")
        code = FAILED
    except Exception:  # noqa: BLE001 - Python's exit code for a bug is 1: "found and cleaned"
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = FAILED
    raise typer.Exit(code)


def _scanned(
    paths: Paths, named: list[Path], max_size: int, one_file_system: bool, report: "_Report"
) -> int:
    """Scan, report, and return the exit code."""
    # Here, because the engine's libraries take a second that no other command should wait.
    from webguard.daemon import ondemand
    from webguard.policy import lists
    from webguard.scan.compiler import own_rules
    from webguard.scan.engine import compile_rules, shipped_rules

    root = os.geteuid() == 0
    if not root and not report.silent:
        show.complain("not root: only what you can read is scanned, by a process of your own")
    job: Job = ondemand.Job(
        # Not resolved: the report names what the caller named.
        paths=[str(each.absolute()) for each in named],
        rules=compile_rules(shipped_rules() | own_rules(paths.rules)),
        hashes=lists.load(paths.rules.with_name("lists.d")).hashes,
        user=SCAN_USER if root else None,
        largest=max_size * _MIB,
        one_file_system=one_file_system,
    )
    with report:
        tally = ondemand.scan(job, report.tell, report.tick)
    code = exit_code(tally)
    report.end(tally, code)
    return code


def exit_code(tally: "Tally") -> int:
    """Return what says most of what happened."""
    if tally.found:
        return FOUND
    if tally.absent or tally.interrupted:
        return FAILED
    return UNSCANNED if tally.unscanned else CLEAN


class _Report:
    """What is printed: a line that moves while it runs, and what was found."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self._json = json
        self.silent = quiet
        self._found: list[tuple[str, str, str]] = []
        self._unscanned: list[tuple[str, str, str]] = []
        self._more = 0
        self._progress: Progress | None = None
        self._drawn = 0.0

    def __enter__(self) -> None:
        # Standard output is the report's, whether it is a terminal or not.
        if not self.silent and sys.stderr.isatty() and not (self._json and sys.stdout.isatty()):
            self._progress = _progress()
            self._progress.start()

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def tick(self, tally: "Tally") -> None:
        """Show how far the scan is."""
        now = time.monotonic()
        if self._progress and now - self._drawn >= _REDRAW:
            self._drawn = now
            said = f"{tally.files:,} files, {_size(tally.bytes)}, {tally.found:,} found"
            self._progress.update(self._progress.task_ids[0], description=said)
            self._progress.refresh()

    def tell(self, outcome: "Outcome") -> None:
        """Print one outcome for programs, or keep it for the table."""
        if self._json:
            _line(_as_json(outcome))
        if self._json or self.silent:
            return
        from webguard.daemon.scanning import FILE

        for found in outcome.result.detections:
            inside = f" in {found.member}" if found.member else ""
            self._keep(self._found, "found", outcome.path, f"{found.name} ({found.kind}){inside}")
        for missed in outcome.result.unscanned:
            where = "" if missed.where in (FILE, ENGINE) else f"{missed.where}: "
            self._keep(self._unscanned, "not scanned", outcome.path, where + missed.reason)

    def _keep(self, rows: list[tuple[str, str, str]], what: str, path: str, why: str) -> None:
        if len(rows) < _ROWS:
            rows.append((what, path, why))
        else:
            self._more += 1

    def end(self, tally: "Tally", code: int) -> None:
        """Print the rest, and the summary."""
        if self._json:
            counts = {**asdict(replace(tally, passed=Counter())), "passed": dict(tally.passed)}
            _line({"type": "summary", "exit_code": code, **counts})
            return
        if self.silent:
            return
        if rows := [*sorted(self._found), *sorted(self._unscanned)]:
            show.table(("RESULT", "PATH", "WHAT"), rows)
        if self._more:
            show.line(f"and {self._more:,} more (--json prints them all)")
        show.line(_summary(tally))


def _as_json(outcome: "Outcome") -> dict[str, Any]:
    facts = {
        "type": "found" if outcome.result.detections else "unscanned",
        "path": outcome.path.encode(errors="surrogateescape").decode(errors="replace"),
        "size": outcome.size,
        **asdict(outcome.result),
    }
    if facts["path"] != outcome.path:
        facts["path_base64"] = base64.b64encode(os.fsencode(outcome.path)).decode()
    return facts


def _line(value: dict[str, Any]) -> None:
    # ASCII only: no encoding of the terminal's can fail on it, no control character reaches it.
    sys.stdout.write(jsonlib.dumps(value) + "\n")


def _summary(tally: "Tally") -> str:
    parts = [
        "interrupted: " if tally.interrupted else "",
        f"{tally.files:,} files scanned ({_size(tally.bytes)}, {tally.seconds:.1f} s): ",
        f"{tally.found:,} found" if tally.found else "nothing found",
        f", {tally.unscanned:,} not scanned" if tally.unscanned else "",
    ]
    passed = ", ".join(f"{count:,} x {what}" for what, count in sorted(tally.passed.items()))
    return "".join(parts) + (f"; passed over: {passed}" if passed else "")


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True, no_color="NO_COLOR" in os.environ),
        auto_refresh=False,
        transient=True,
    )
    progress.add_task("starting", total=None)
    return progress
