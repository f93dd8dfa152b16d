"""The options before the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from webguard.cli.main import app


@pytest.mark.parametrize("name", ["../../x", "", "A", "a b", "a\n", "x" * 17])
@pytest.mark.parametrize("command", [["purge", "--yes"], ["status"]])
def test_an_instance_is_called_as_the_settings_may_call_it(name: str, command: list[str]) -> None:
    result = CliRunner().invoke(app, ["--instance", name, *command])
    assert result.exit_code == 2
    assert "first of them a letter" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        pytest.param(["pol"], ["policy"], id="a command"),
        pytest.param(["policy", "r"], ["reload"], id="below a command"),
        pytest.param(["events", "--fo"], ["--follow", "--format"], id="an option"),
    ],
)
def test_bash_completes_a_program_on_the_path(
    tmp_path: Path, words: list[str], offered: list[str]
) -> None:
    """As installed: by a link. What the shell is given is what it runs."""
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nfrom webguard.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/webguard").symlink_to(program)
    line = " ".join(f"'{each}'" for each in ["webguard", *words])
    script = (
        "webguard --show-completion > script; . ./script; complete -p webguard;"
        f" COMP_WORDS=({line}); COMP_CWORD={len(words)};"
        " _webguard_completion webguard; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[1:] == offered, done
