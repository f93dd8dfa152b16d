"""What purge takes for its own."""

import os
from pathlib import Path

import pytest

from webguard import host
from webguard.cli import purge
from webguard.daemon.paths import Paths
from webguard.errors import HostError


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


@pytest.mark.parametrize(
    ("asked_for", "removed"),
    [
        pytest.param("", True, id="what came along as a dependency goes along"),
        pytest.param("theirs", False, id="what somebody asked for stays, and so all"),
    ],
)
def test_packages_go_unless_others_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_for: str, removed: bool
) -> None:
    gone = tmp_path / "gone"
    programs = {
        "apt-get": f'case "$*" in *--simulate*) echo "Remv ours"; echo "Remv theirs";; '
        f"*) echo $* > {gone};; esac",
        "apt-mark": f"test '{asked_for}' = theirs || echo theirs",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setitem(host._ENVIRONMENT, "PATH", f"{tmp_path}:{os.environ['PATH']}")

    if removed:
        purge._remove_packages(("ours",))
    else:
        with pytest.raises(HostError, match="also remove theirs"):
            purge._remove_packages(("ours",))
    assert gone.exists() is removed


@pytest.mark.parametrize(
    ("target", "ours"),
    [("/opt/webguard/venv/bin/webguard", True), ("/home/me/webguard", False), ("", False)],
    ids=["to the program", "to another one", "no link"],
)
def test_the_link_to_the_program_goes_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, ours: bool
) -> None:
    link = tmp_path / "webguard"
    link.symlink_to(target) if target else link.write_text("a program")
    monkeypatch.setattr(purge, "_LINK", link)

    steps = [deed for what, deed in purge._machine((), ()) if what.startswith(str(link))]
    for each in steps:
        each()

    assert len(steps) == ours
    assert link.exists(follow_symlinks=False) is not ours
