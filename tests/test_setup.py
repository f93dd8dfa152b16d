"""How setup finds an interpreter. Needs neither root nor network: nothing is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SETUP = Path(__file__).parents[1] / "deploy" / "setup"
REAL = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
BROKEN = "#!/bin/sh\necho 'command not found; it exists in these versions: 3.12' >&2\nexit 127\n"
HANGS = "#!/bin/sh\ntrap '' TERM\nsleep 300\n"
# Says nothing, and leaves a process behind that keeps our pipe and our locks.
LEAVES = "#!/bin/sh\nsleep 90 &\n"
LIES = "#!/bin/sh\necho /nowhere/python3\n"
OLD = f'#!/bin/sh\n# Answers as an interpreter that is too old.\nexec {REAL} -c "exit(1)"\n'


def program(folder: Path, text: str) -> Path:
    folder.mkdir()
    path = folder / "python3"
    path.write_text(text)
    path.chmod(0o755)
    return path


def find(path: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": "/nonexistent", **settings}
    return subprocess.run(
        [SETUP / "python"], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BROKEN, id="a shim that refuses"),
        pytest.param(OLD, id="an old one"),
        pytest.param(HANGS, id="one that hangs"),
        pytest.param(LEAVES, id="one that leaves a process behind"),
        pytest.param(LIES, id="one that names another that is not there"),
    ],
)
def test_what_does_not_run_is_passed_over(tmp_path: Path, text: str) -> None:
    program(tmp_path / "first", text)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "python3").symlink_to(REAL)

    found = find(f"{tmp_path}/first:{tmp_path}/second", SETUP_PATIENCE="2")

    assert found.stdout.strip() == REAL


def test_the_interpreter_behind_a_venv_is_found(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(REAL).parent}\n")

    assert find(f"{tmp_path}/bin").stdout.strip() == REAL


def test_pyenvs_folder_is_searched_after_path(tmp_path: Path) -> None:
    shim = program(tmp_path / "shims", BROKEN)
    versions = tmp_path / "pyenv" / "versions"
    for version in ("3.9.1", "3.12.1"):
        (versions / version / "bin").mkdir(parents=True)
    (versions / "3.9.1" / "bin" / "python3").symlink_to("/bin/false")
    (versions / "3.12.1" / "bin" / "python3").symlink_to(REAL)

    found = find(str(shim.parent), PYENV_ROOT=str(tmp_path / "pyenv"))

    # The distribution's own, if it is new enough, comes first: it is on PATH.
    assert found.stdout.strip() in (REAL, os.path.realpath("/usr/bin/python3"))


def test_the_callers_choice_is_taken_or_refused_and_never_replaced(tmp_path: Path) -> None:
    chosen = find("/nowhere", PYTHON=REAL)
    refused = find(str(Path(REAL).parent), PYTHON=str(program(tmp_path / "bad", BROKEN)))

    assert chosen.stdout.strip() == REAL
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "remedy: point PYTHON at another one" in refused.stderr


def test_what_was_placed_by_one_checkout_is_known_to_another(tmp_path: Path) -> None:
    def stamp(*files: Path) -> str:
        script = '. "$0"; hash_of "$@"'
        return subprocess.check_output(["bash", "-c", script, SETUP / "lib.sh", *files], text=True)

    one, two = tmp_path / "one", tmp_path / "two"
    for each in (one, two):
        each.mkdir()
        (each / "lock").write_text("the same")
        (each / "other").write_text("another")
    assert stamp(one / "lock", one / "other") == stamp(two / "lock", two / "other")
    assert stamp(one / "lock") != stamp(one / "other")
    assert stamp(one / "lock", one / "other") != stamp(one / "other", one / "lock")


def test_nothing_is_installed_that_would_run_while_it_is_installed() -> None:
    """A source distribution runs its setup.py, and setup is root's."""
    scripts = [each for each in SETUP.iterdir() if each.read_bytes().startswith(b"#!")]
    text = "\n".join(each.read_text() for each in (*scripts, SETUP / "lib.sh"))
    installing = [line for line in text.splitlines() if "-m pip" in line and " install" in line]

    assert len(installing) >= 4
    for line in installing:
        # Our own wheel, built a moment before, is the exception.
        assert "pip_rules" in line or line.endswith("\\"), line
    assert "pip_rules=(--require-hashes --only-binary :all:)" in text


def test_a_link_to_the_program_is_made_once_and_never_in_place_of_another(tmp_path: Path) -> None:
    def link(path: Path) -> str:
        call: list[str | Path] = [SETUP / "link", "/opt/webguard/venv/bin/webguard", path]
        done = subprocess.run(call, capture_output=True, check=True, text=True, timeout=60)
        return done.stderr

    ours, other, theirs = (tmp_path / each for each in ("bin/webguard", "other", "theirs"))
    other.write_text("a program")
    theirs.symlink_to("/nowhere")

    assert link(ours) == f"setup: {ours}\n"
    assert link(ours) == ""
    assert ours.readlink() == Path("/opt/webguard/venv/bin/webguard")
    assert "left alone" in link(other)
    assert other.read_text() == "a program"
    assert "left alone" in link(theirs)
    assert theirs.readlink() == Path("/nowhere")
