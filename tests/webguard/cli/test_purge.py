"""What purge takes for its own."""

from pathlib import Path

from webguard.cli import purge
from webguard.daemon.paths import Paths


def test_a_python_that_setup_fetched_is_taken_away_and_nothing_else_is(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path)
    paths.state.mkdir(parents=True)
    fetched, other = tmp_path / "checkout" / ".build" / "python", tmp_path / "python"
    for folder in (fetched, other):
        folder.mkdir(parents=True)
    gone = tmp_path / "gone" / ".build" / "python"
    told = [fetched, fetched, other, gone, "relative/.build/python", ""]
    (paths.state / "pythons").write_text("".join(f"{each}\n" for each in told))

    assert purge._fetched(paths) == (fetched,)
    assert purge._fetched(Paths(root=tmp_path / "gone")) == ()
