"""The options before the command."""

import pytest
from typer.testing import CliRunner

from webguard.cli.main import app


@pytest.mark.parametrize("name", ["../../x", "", "A", "a b", "a\n", "x" * 17])
@pytest.mark.parametrize("command", [["purge", "--yes"], ["status"]])
def test_an_instance_is_called_as_the_settings_may_call_it(name: str, command: list[str]) -> None:
    result = CliRunner().invoke(app, ["--instance", name, *command])
    assert result.exit_code == 2
    assert "first of them a letter" in " ".join(result.output.split())
