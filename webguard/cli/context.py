"""What every command knows: which installation it is about."""

from dataclasses import dataclass
from typing import Any

import typer

from webguard.cli.ask import ask
from webguard.daemon.paths import Paths


@dataclass(frozen=True, slots=True)
class Context:
    """The installation that the global options name."""

    paths: Paths

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask this installation's daemon."""
        return ask(self.paths.control, path, body)


def context_of(context: typer.Context) -> Context:
    """Return what the global options said."""
    found = context.obj
    if not isinstance(found, Context):
        raise TypeError("the callback has not run")
    return found
