"""`webguard boot`: shut what is to be shut until webguard inspects it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from webguard.cli import show
from webguard.cli.context import context_of
from webguard.errors import PermissionDeniedError, RefusedError


def boot(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="The settings file [default: /etc/webguard/webguard.yaml]."),
    ] = None,
) -> None:
    """Keep containers from the web until webguard protects, if settings say `closed`.

    Run by the unit webguard-boot.service before the network and the container
    engines start. With `web.on_failure: open` nothing is done. The daemon takes
    over what this leaves; `webguard purge` removes it.

    \b
    Examples:
      webguard boot
    """
    from webguard.daemon.boot import shut

    paths = context_of(context).paths
    if os.geteuid() != 0:
        raise PermissionDeniedError("webguard boot changes the firewall and must be root (sudo)")
    try:
        below = shut(paths, config)
    except RefusedError:
        show.line("A daemon runs, and keeps shut what is to be shut.")
        return
    if below is None:
        show.line("Nothing is shut: web.on_failure is open.")
    else:
        which = ", ".join(show.plain(each) for each in below) or "no cgroup is a container's yet"
        show.line(f"Web ports are shut until webguard protects: {which}")
