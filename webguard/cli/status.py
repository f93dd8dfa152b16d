"""`webguard status`: what is protected, what is not, and why."""

import time
from typing import Annotated, Any

import typer

from webguard.cli import show
from webguard.cli.context import Context, context_of
from webguard.errors import HostError, UnreachableError

_WAIT_EVERY = 0.2


def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait until the host is protected.", min=0)
    ] = 0,
) -> None:
    """Say whether the host is protected at this moment.

    The exit code is 0 if it is, and 1 if it is not.

    \b
    Examples:
      webguard status
      webguard status --wait 30 && docker start shop
      webguard status --json
    """
    answer = _ask(context_of(context), wait)
    if json:
        show.as_json(answer)
    else:
        summary(answer)
    if not answer["protected"]:
        raise typer.Exit(1)


def _ask(context: Context, wait: float) -> dict[str, Any]:
    until = time.monotonic() + wait
    while True:
        try:
            answer = context.ask("/v1/status")
            if answer["protected"] or time.monotonic() >= until:
                return answer
        except (UnreachableError, HostError):
            if time.monotonic() >= until:
                raise
        time.sleep(_WAIT_EVERY)


def summary(answer: dict[str, Any]) -> None:
    """Print the state of everything for a person."""
    web = answer["web"]
    if answer["protected"]:
        ports = ", ".join(str(each) for each in web["ports"])
        show.line(f"PROTECTED: web traffic of host-network containers to TCP ports {ports}")
    else:
        show.line("NOT PROTECTED")
        for each in answer["missing"]:
            show.line(f"  because {show.plain(each)}")
    _trouble(answer)
    show.line(
        f"  on failure: {web['on_failure']}; content that cannot be scanned: {web['unscanned']}"
    )
    show.line(f"  CA: {answer['ca']['name']} (SHA-256 {answer['ca']['sha256'][:16]}...)")
    _processes(answer)
    inspected = [each for each in answer["containers"] if each["inspected"]]
    others = [each for each in answer["containers"] if not each["inspected"]]
    show.line(f"Containers inspected: {len(inspected)}")
    for each in inspected:
        show.line(f"  {each['id'][:12]} {show.plain(each['name'])}")
    if others:
        show.line(f"Containers not inspected: {len(others)}")
        for each in others:
            show.line(
                f"  {each['id'][:12]} {show.plain(each['name'])}: {show.plain(each['why_not'])}"
            )
    show.line("Not covered:")
    for each in answer["not_covered"]:
        show.line(f"  {show.plain(each)}")


def _processes(answer: dict[str, Any]) -> None:
    for each in answer["workers"]:
        show.line(
            f"  worker {each['number']}: pid {each['pid']}, {each['served']} connections served, "
            f"{each['open']} open, {each['refused']} refused"
        )
    for each in answer["scanners"]:
        alive = f"pid {each['pid']}" if each["pid"] else "not there; archives are not scanned"
        show.line(f"  scan process {each['number']}: {alive}")


def _trouble(answer: dict[str, Any]) -> None:
    """Print what an operator must know although the host may be protected."""
    isolation, record = answer["isolation"], answer["record"]
    if isolation["isolated"]:
        reason = f": {show.plain(isolation['reason'])}" if isolation["reason"] else ""
        show.line(
            f"  isolation is ON, by {show.plain(isolation['who'])}{reason}"
            f" (host-network containers: {isolation['host_network']})"
        )
    if record["problem"]:
        why = show.plain(record["problem"])
        show.line(f"  the record cannot be written: {why} ({record['waiting']} events wait)")
    if record["lost"] or answer["events_lost"]:
        show.line(
            f"  events lost: {record['lost']} not recorded since the start,"
            f" {answer['events_lost']} not printed"
        )
