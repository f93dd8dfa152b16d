"""`webguard doctor`: what this host needs before webguard can protect it."""

from dataclasses import asdict
from typing import Annotated

import typer

from webguard.cli import show
from webguard.cli.context import context_of


def doctor(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check kernel, nftables, users, paths, conflicts and clock. Needs no daemon.

    Every check says how it stands, why, and what to do. The exit code is 1 if
    webguard could not protect this host as it is.

    \b
    Examples:
      webguard doctor
      webguard doctor --json
    """
    # Heavy libraries, and no other command needs them.
    from webguard.daemon.doctor import Standing, examine

    found = examine(context_of(context).paths)
    if json:
        show.as_json({"checks": [asdict(each) for each in found]})
    else:
        show.table(
            ("CHECK", "", "REASON", "FIX"),
            ((each.check, each.standing, each.reason, each.fix) for each in found),
        )
    if any(each.standing is Standing.FAIL for each in found):
        raise typer.Exit(1)
