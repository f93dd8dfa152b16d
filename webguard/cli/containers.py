"""`webguard containers`: every container, and whether its web traffic is inspected."""

from typing import Annotated

import typer

from webguard.cli import show
from webguard.cli.context import context_of


def containers(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the containers of this host.

    \b
    Examples:
      webguard containers
      webguard containers --json
    """
    answer = context_of(context).ask("/v1/containers")
    if json:
        show.as_json(answer)
        return
    show.table(
        ("CONTAINER", "NAME", "RUNTIME", "NETWORK", "INSPECTED"),
        (
            (
                each["id"][:12],
                each["name"] or "-",
                each["runtime"],
                each["network"],
                "yes" if each["inspected"] else f"no: {each['why_not']}",
            )
            for each in answer["containers"]
        ),
    )
