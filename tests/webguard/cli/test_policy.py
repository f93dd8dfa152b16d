"""`webguard policy check` on files as an operator has them."""

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from webguard.cli import policy
from webguard.cli.context import Context
from webguard.daemon.paths import Paths

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_the_examples_pass_as_they_are_shipped(tmp_path: Path) -> None:
    """Copied into place, as each of them says of itself."""
    paths = Paths(root=tmp_path)
    paths.groups.mkdir(parents=True)
    shutil.copy(DEPLOY / "webguard.yaml", paths.config)
    for example in (DEPLOY / "policy.d").glob("*.example"):
        shutil.copy(example, paths.groups / f"10-{example.name.removesuffix('.example')}")

    argv = ["check", "--json", "--config", str(paths.config)]
    done = CliRunner().invoke(policy.app, argv, obj=Context(paths))

    assert done.exception is None, done.exception
    assert json.loads(done.stdout)["groups"] == ["payments", "unknown", "default"]
