"""`webguard run`: protect in the foreground until Ctrl-C."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from webguard.cli import show
from webguard.cli.context import context_of
from webguard.cli.purge import left_behind
from webguard.cli.status import summary
from webguard.daemon import journal
from webguard.daemon.paths import Paths
from webguard.errors import PermissionDeniedError


def run(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="The settings file [default: /etc/webguard/webguard.yaml]."),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take the place of the daemon that runs, without a gap."),
    ] = False,
) -> None:
    """Protect this host in the foreground. Ctrl-C leaves the host as it was.

    Events are printed on standard output, one JSON object a line; everything
    for a person goes to standard error.

    \b
    Examples:
      webguard run
      webguard run --config ./webguard.yaml > events.jsonl
      webguard run --take-over        after an upgrade: the old daemon goes when we protect
    """
    # Here, because the daemon's libraries take a second that no other command should wait.
    from webguard.daemon.foreground import protect

    paths = context_of(context).paths
    if os.geteuid() != 0:
        raise PermissionDeniedError("webguard run changes the firewall and must be root (sudo)")
    protect(paths, config, _say_ready, take_over=take_over)
    _say_left_behind(paths)


def _say_ready(status: dict[str, Any]) -> None:
    """Print what is protected and what is not, for the person in front of it."""
    if journal.is_journal(sys.stderr):
        return  # `status` has it whenever a person asks
    # Standard output is the events'.
    with contextlib.redirect_stdout(sys.stderr):
        summary(status)
        show.line("Ctrl-C ends it and leaves the host as it was.")
    sys.stderr.flush()


def _say_left_behind(paths: Paths) -> None:
    if journal.is_journal(sys.stderr):
        return
    sys.stderr.write("webguard has stopped. What stays, until `webguard purge`:\n")
    for each in left_behind(paths):
        sys.stderr.write(f"  {each}\n")
