"""`webguard isolation`: what cannot be kept is refused before anything is cut."""

import pytest
from typer.testing import CliRunner

from webguard.cli.context import Context
from webguard.cli.isolation import app
from webguard.daemon.paths import Paths
from webguard.errors import UnreachableError


@pytest.mark.parametrize("deed", ["on", "off"])
def test_a_reason_has_an_end(deed: str) -> None:
    result = CliRunner().invoke(app, [deed, "--reason", "x" * 1001], obj=Context(Paths()))
    assert result.exit_code == 2
    assert "1000 characters" in result.output


def test_a_long_reason_is_asked_for() -> None:
    nobody = Context(Paths(instance="nobody"))
    result = CliRunner().invoke(app, ["on", "--reason", "x" * 1000], obj=nobody)
    assert isinstance(result.exception, UnreachableError)
