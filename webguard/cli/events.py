"""`webguard events`: what happened, and what happens."""

import sys
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlencode

import typer

from webguard.cli.ask import lines
from webguard.cli.context import context_of
from webguard.errors import UnreachableError

_MOST = 1_000_000  # what the daemon sends at most


class Format(StrEnum):
    """How an event is written."""

    JSON = "json"
    ESET12 = "eset12"
    ESET13 = "eset13"


def events(  # noqa: PLR0913 - one for each option
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    form: Annotated[
        Format, typer.Option("--format", help="One JSON object, or the vendor's line, an event.")
    ] = Format.JSON,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=0, max=_MOST, help="The newest so many of the record."),
    ] = 100,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only these kinds; may be repeated.")
    ] = None,
    container: Annotated[str, typer.Option("--container", help="Only of this id or name.")] = "",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print recorded events, one a line, the newest last.

    \b
    Examples:
      webguard events --kind web.blocked -n 20
      webguard events --follow --format eset13
      webguard events --container shop | jq .subject
    """
    wanted = {
        "format": Format.JSON if json else form,
        "follow": str(follow).lower(),
        "limit": str(limit),
        "container": container,
    }
    query = urlencode([*wanted.items(), *(("kind", each) for each in kind or ())])
    for line in lines(context_of(context).paths.control, f"/v1/events?{query}"):
        sys.stdout.write(line)
        sys.stdout.flush()
    if follow:
        raise UnreachableError("the daemon has ended (start it, or ask its successor: once more)")
