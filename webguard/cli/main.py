"""The command `webguard`: one file per command, and one place where errors become exit codes."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from webguard.cli import (
    boot,
    cert,
    containers,
    doctor,
    events,
    isolation,
    policy,
    purge,
    run,
    scan,
    show,
    status,
)
from webguard.cli.context import Context
from webguard.daemon.paths import Paths
from webguard.errors import WebguardError
from webguard.model import INSTANCE

app = typer.Typer(
    name="webguard",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Protect the containers of this host.

\b
Examples:
  webguard run                    protect in the foreground until Ctrl-C
  webguard status                 what is protected, what is not, and why
  webguard doctor                 what this host lacks, and how to mend it
  webguard containers             every container, and whether it is inspected
  webguard cert install shop      make a container trust the inspection CA
  webguard events --follow        what happens, as it happens
  webguard isolation on           cut the containers off
  webguard policy reload          put changed settings, groups, lists and rules in force
  webguard scan /srv              look for malware in files, and only report
  webguard purge                  remove everything that webguard keeps

\b
Exit codes: 0 done, 1 error, 2 usage or configuration, 3 not found, 4 partly
done, 5 the daemon does not answer, 6 done but a restart is needed, 77 not allowed.
""",
)
app.add_typer(cert.app, name="cert")
app.add_typer(isolation.app, name="isolation")
app.add_typer(policy.app, name="policy")
app.command("run")(run.run)
app.command("scan")(scan.scan)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("containers")(containers.containers)
app.command("events")(events.events)
app.command("boot")(boot.boot)
app.command("purge")(purge.purge)


@app.callback()
def webguard(
    context: typer.Context,
    root: Annotated[Path, typer.Option(help="Keep every path below this directory.")] = Path("/"),
    instance: Annotated[
        str, typer.Option(help="Name of the instance, if several run on one machine.")
    ] = "webguard",
) -> None:
    """Say which installation is meant."""
    if not re.fullmatch(INSTANCE, instance) or instance.endswith("\n"):
        raise typer.BadParameter(
            "write 1 to 16 of a-z, 0-9 and _, the first of them a letter", param_hint="--instance"
        )
    context.obj = Context(Paths(root=root.absolute(), instance=instance))


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app()
    except WebguardError as error:
        show.complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output had enough
        sys.exit(0)
