"""`webguard isolation`: cut the containers off from each other and from the host."""

from typing import Annotated, Any

import typer

from webguard.cli import show
from webguard.cli.context import context_of

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Cut containers off from each other, from the host and from outside.

While it is on, web protection does not scan container traffic (unless
isolation.host_network is inspect). It ends with the daemon.

\b
Examples:
  webguard isolation on --reason "incident 4711"
  webguard isolation status
  webguard isolation off
""",
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _bounded(reason: str) -> str:
    if len(reason) > 1000:  # what the record takes of it
        raise typer.BadParameter("at most 1000 characters")
    return reason


_Reason = Annotated[str, typer.Option(help="Why, for the record.", callback=_bounded)]


@app.command()
def on(
    context: typer.Context,
    reason: _Reason = "",
    json: _Json = False,
) -> None:
    """Cut all containers on bridge networks off, established connections included.

    Either it is done as a whole, or nothing has changed and the exit code is 1.

    \b
    Examples:
      webguard isolation on
      webguard isolation on --reason "incident 4711" --json
    """
    _print(context_of(context).ask("/v1/isolation/on", {"reason": reason}), json=json)


@app.command()
def off(context: typer.Context, reason: _Reason = "", json: _Json = False) -> None:
    """Restore all connections, and resume web inspection.

    \b
    Examples:
      webguard isolation off
      webguard isolation off --reason "false alarm"
    """
    _print(context_of(context).ask("/v1/isolation/off", {"reason": reason}), json=json)


@app.command()
def status(context: typer.Context, json: _Json = False) -> None:
    """Say for every container whether it is cut, by what the kernel holds now.

    \b
    Examples:
      webguard isolation status
      webguard isolation status --json
    """
    _print(context_of(context).ask("/v1/isolation"), json=json)


def _print(answer: dict[str, Any], *, json: bool) -> None:
    if json:
        show.as_json(answer)
        return
    if not answer["isolated"]:
        show.line("isolation is off")
        return
    state = "ON, DEGRADED" if answer["degraded"] else "ON"
    reason = f": {show.plain(answer['reason'])}" if answer["reason"] else ""
    show.line(f"isolation is {state}, by {show.plain(answer['who'])}{reason}")
    for each in answer["degraded"]:
        show.line(f"  DEGRADED: {show.plain(each)}")
    for each in answer["limits"]:
        show.line(f"  never cut: what passes {show.plain(each)}")
    show.line(f"  host-network containers: {answer['host_network']}")
    show.line(f"  web inspection: {'on' if answer['inspecting'] else 'off while this lasts'}")
    show.line(f"  ends {answer['ends']}")
    counted = ", ".join(f"{place} {count}" for place, count in answer["packets"].items())
    show.line(f"  packets dropped: {counted}")
    show.table(
        ("CONTAINER", "NAME", "NETWORK", "CUT", "WHY"),
        (
            (each["id"][:12], each["name"] or "-", each["network"], each["cut"], each["why"])
            for each in answer["containers"]
        ),
    )
