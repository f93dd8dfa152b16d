"""`webguard policy`: check the files, see what holds, what would change, and change it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from webguard.cli import show as screen
from webguard.cli.context import context_of

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Check, show, compare and reload settings, groups, lists and rules.

\b
Examples:
  webguard policy check
  webguard policy diff
  webguard policy reload
  webguard policy show shop
""",
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Config = Annotated[
    Path | None, typer.Option(help="The settings file [default: /etc/webguard/webguard.yaml].")
]


@app.command()
def check(context: typer.Context, config: _Config = None, json: _Json = False) -> None:
    """Read settings, groups, lists and rules as the daemon would. Needs no daemon.

    Exit code 2, with file, line and remedy, if something in them is wrong.

    \b
    Examples:
      webguard policy check
      webguard policy check --config ./new.yaml
    """
    # Compiling rules needs heavy libraries that no other command should wait for.
    from webguard.daemon.material import read

    paths = context_of(context).paths
    found = read(paths, config, generation=0)
    policy = found.policy
    lists = {each.name: len(each.entries) for each in policy.lists}
    lists |= {each.name: len(each.entries) for each in policy.hashes}
    groups = [each.name for each in policy.groups]
    answer = {
        "groups": groups,
        "lists": lists,
        "rules_bytes": len(found.rules),
        "settings": found.config.model_dump(mode="json"),
    }
    if json:
        screen.as_json(answer)
        return
    screen.line(
        f"good: {len(groups)} groups, {len(lists)} lists, {len(found.rules)} bytes of rules"
    )


@app.command()
def show(
    context: typer.Context,
    container: Annotated[str, typer.Argument(help="Name or id; every one if left out.")] = "",
    json: _Json = False,
) -> None:
    """Say which settings are in force for containers, and which group they come from.

    \b
    Examples:
      webguard policy show
      webguard policy show shop --json
    """
    answer = context_of(context).ask("/v1/policy/show", {"container": container})
    if json:
        screen.as_json(answer)
        return
    screen.line(f"generation {answer['generation']}")
    screen.table(
        ("CONTAINER", "NAME", "GROUP", "INSPECTED", "UNSCANNED", "ON FAILURE", "LISTS"),
        (
            (
                each["id"][:12] or "-",
                each["name"],
                each["group"],
                "yes" if each["enabled"] else "no",
                each["unscanned"],
                each["on_failure"],
                ", ".join(f"{used['name']} ({used['kind']})" for used in each["lists"]) or "-",
            )
            for each in answer["containers"]
        ),
    )


@app.command()
def diff(context: typer.Context, config: _Config = None, json: _Json = False) -> None:
    """Say what a reload would change, and for which container. Changes nothing.

    \b
    Examples:
      webguard policy diff
      webguard policy diff --config ./new.yaml --json
    """
    answer = context_of(context).ask("/v1/policy/diff", _where(config))
    if json:
        screen.as_json(answer)
        return
    for each in answer["settings"]:
        screen.line(f"{each['setting']}: {each['before']} -> {each['after']}")
    for each in answer["lists"]:
        screen.line(f"list {screen.plain(each['name'])}: +{each['added']} -{each['removed']}")
    for each in answer["containers"]:
        screen.line(screen.plain(each["name"] or each["id"][:12]))
        for change in each["changes"]:
            said = f"  {change['setting']}: {change['before']} -> {change['after']}"
            screen.line(screen.plain(said))
    if answer["rules_changed"]:
        screen.line("rules: others than those in force")
    if not any(
        (answer["settings"], answer["lists"], answer["containers"], answer["rules_changed"])
    ):
        screen.line("nothing would change")


@app.command()
def reload(context: typer.Context, config: _Config = None, json: _Json = False) -> None:
    """Put settings, groups, lists and rules in force without a restart.

    Returns when every worker judges by them. If something is wrong with them,
    the old ones stay in force and the exit code is 2.

    \b
    Examples:
      webguard policy check && webguard policy reload
    """
    answer = context_of(context).ask("/v1/policy/reload", _where(config))
    if json:
        screen.as_json(answer)
    else:
        screen.line(f"generation {answer['generation']} is in force")


def _where(config: Path | None) -> dict[str, Any]:
    return {"config": str(config.absolute()) if config else ""}
