"""What root reads is root's alone: whoever can write it commands the daemon."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from webguard.daemon import owners
from webguard.daemon.paths import Paths
from webguard.errors import ConfigError

FILES = ["webguard.yaml", "policy.d/a.yaml", "lists.d/a.yaml", "lists.d/a.txt", "rules.d/a.yar"]
FOLDERS = [".", "policy.d", "lists.d", "rules.d"]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An installation whose root is whoever runs the tests."""
    monkeypatch.setattr(owners, "_ROOT", os.getuid())
    monkeypatch.setattr(owners, "_binding", lambda _paths: True)
    found = Paths(root=tmp_path)
    for name in FOLDERS:
        (found.config.parent / name).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (found.config.parent / name).write_text("")
    for each in [found.config.parent, *found.config.parent.rglob("*")]:
        each.chmod(each.stat().st_mode & ~0o022)
    return found


def test_what_is_roots_alone_is_read(paths: Paths) -> None:
    owners.demand(paths, None)


def test_what_is_not_there_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_binding", lambda _paths: True)
    owners.demand(Paths(root=tmp_path), None)


@pytest.mark.parametrize("name", FILES + FOLDERS)
@pytest.mark.parametrize("bits", [0o020, 0o002], ids=["group", "world"])
def test_what_others_can_write_is_refused_with_the_remedy(
    paths: Paths, name: str, bits: int
) -> None:
    path = paths.config.parent / name
    path.chmod(path.stat().st_mode | bits)
    with pytest.raises(ConfigError, match="can write to it") as refused:
        owners.demand(paths, None)
    assert refused.value.exit_code == 2
    assert f"chown root {path}; chmod go-w {path}" in str(refused.value)


def test_what_belongs_to_somebody_else_is_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_ROOT", os.getuid() + 1)
    with pytest.raises(ConfigError, match=f"belongs to uid {os.getuid()}"):
        owners.demand(paths, None)


def test_a_link_into_a_folder_of_others_is_refused(paths: Paths, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (theirs / "b.yaml").write_text("")
    (theirs / "b.yaml").chmod(0o644)
    (paths.groups / "b.yaml").symlink_to(theirs / "b.yaml")
    with pytest.raises(ConfigError, match=str(theirs)):
        owners.demand(paths, None)


def test_a_settings_file_that_is_named_is_the_callers_choice(paths: Paths) -> None:
    paths.config.chmod(0o666)
    owners.demand(paths, paths.config)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _paths: Paths(root=Path("/")), id="another user"),
        pytest.param(lambda paths: paths, id="another root"),
    ],
)
def test_only_root_on_its_own_root_is_bound(
    tmp_path: Path, spoil: Callable[[Paths], Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spoil(Paths(root=tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1 if asked.root == Path("/") else 0)
    assert not owners._binding(asked)
