"""`webguard cert`: make containers trust the inspection CA, undo it, and look."""

from typing import Annotated, Any

import typer

from webguard.cli import show
from webguard.cli.context import context_of
from webguard.errors import (
    NotFoundError,
    PartlyDoneError,
    RefusedError,
    RestartNeededError,
    WebguardError,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Make containers trust the inspection CA.

Nothing in a container is ever executed: the files of its trust stores are
written from outside, and taken out again byte for byte.

\b
Examples:
  webguard cert install shop
  webguard cert install --all
  webguard cert status shop --json
  webguard cert remove shop
""",
)

_Names = Annotated[list[str] | None, typer.Argument(help="Names, or 4 or more characters of ids.")]
_All = Annotated[bool, typer.Option("--all", help="Every running container.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def install(
    context: typer.Context, names: _Names = None, every: _All = False, json: _Json = False
) -> None:
    """Put the CA's certificate into containers' trust stores.

    Safe to repeat. Exit code 6 says that programs which are running already
    must be restarted before they trust it.

    \b
    Examples:
      webguard cert install shop
      webguard cert install shop 4f2a1c --json
      webguard cert install --all
    """
    _do(context, "install", names, every=every, json=json)


@app.command()
def remove(
    context: typer.Context, names: _Names = None, every: _All = False, json: _Json = False
) -> None:
    """Take the CA's certificate out of containers' trust stores.

    \b
    Examples:
      webguard cert remove shop
      webguard cert remove --all
    """
    _do(context, "remove", names, every=every, json=json)


@app.command()
def status(
    context: typer.Context, names: _Names = None, every: _All = False, json: _Json = False
) -> None:
    """Say how far containers trust the CA.

    `trusted` means that a program in the container has completed a handshake
    with a certificate of ours since it was installed; `installed` that it is in
    every trust store there is.

    \b
    Examples:
      webguard cert status shop
      webguard cert status --all --json
    """
    _do(context, "status", names, every=every, json=json)


def _do(
    context: typer.Context, deed: str, names: list[str] | None, *, every: bool, json: bool
) -> None:
    if bool(names) == every:
        raise typer.BadParameter("name containers, or give --all")
    answer = context_of(context).ask(f"/v1/cert/{deed}", {"containers": names or [], "all": every})
    results = answer["results"]
    if json:
        show.as_json(answer)
    else:
        for each in results:
            _print(each)
    if (error := _verdict(deed, results)) is not None:
        raise error


def _print(result: dict[str, Any]) -> None:
    who = show.plain(result["name"] or result["id"][:12] or result["query"])
    if result["error"]:
        return  # said once, as the error
    show.line(f"{who}: {result['level']} ({result['family']})")
    for each in result["stores"]:
        reason = f": {show.plain(each['reason'])}" if each["reason"] else ""
        show.line(f"  {show.plain(each['path'])}: {each['outcome']}{reason}")
        if each["remedy"]:
            show.line(f"    {each['remedy']}")
    if result["restart_needed"]:
        show.line("  programs that were running before must be restarted to trust it")


def _verdict(deed: str, results: list[dict[str, Any]]) -> WebguardError | None:
    """Return the error that says how it ended, or None if everything is as asked."""
    refused = [each for each in results if each["error"] or _incomplete(deed, each)]
    if len(results) == 1 and refused:
        (one,) = refused
        if one["exit_code"] == NotFoundError.exit_code:
            return NotFoundError(one["error"])
        return RefusedError(one["error"] or f"{one['query']}: {one['level']} (see above)")
    if refused:
        said = "; ".join(each["error"] or f"{each['query']}: {each['level']}" for each in refused)
        return PartlyDoneError(f"{len(refused)} of {len(results)} not done: {said}")
    waiting = [each["query"] for each in results if each["restart_needed"]]
    if deed == "install" and waiting:
        return RestartNeededError(
            f"installed; restart the programs in {', '.join(waiting)} that were running before"
        )
    return None


def _incomplete(deed: str, result: dict[str, Any]) -> bool:
    """Return whether a deed left a store in another state than was asked."""
    if deed == "install":
        return result["level"] not in ("installed", "trusted")
    if deed == "remove":
        return any(each["outcome"] not in ("removed", "not present") for each in result["stores"])
    return False
