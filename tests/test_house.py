"""The house's conventions, as tests: a rule that nobody checks is a rule that nobody keeps."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGES = ("addons", "certs", "netiso", "webguard")
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60

# Folders and index hosts of one developer's machine. Written in pieces: this file is read too.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"/work/(?!\w*\.)(main|shared|steering)",
            r"/root/\." + "pyenv",
            "/farm" + "/",
            r"\.library" + "/",
            "pypi" + r"\.org",
            "pythonhosted" + r"\.org",
            "^(UV|PIP)_(DEFAULT_|EXTRA_)?INDEX" + "(_URL)?=",
        ]
    ),
    re.MULTILINE,
)


@cache
def files() -> list[Path]:
    """What is, or is about to be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOUSE,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [HOUSE / name for name in listed.split("\0") if name and (HOUSE / name).is_file()]


def python() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


def sources() -> list[Path]:
    return [path for path in python() if path.relative_to(HOUSE).parts[0] in PACKAGES]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def test_the_house_is_not_empty() -> None:
    assert len(sources()) > len(PACKAGES)


def test_no_file_is_longer_than_one_idea() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for path in python():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines")
    assert long == []


def test_tests_are_no_packages() -> None:
    assert [name_of(p) for p in python() if "tests" in p.parts and p.name == "__init__.py"] == []


def test_a_package_holds_a_docstring_and_nothing_else() -> None:
    packages = [path for path in sources() if path.name == "__init__.py"]
    more = [name_of(p) for p in packages if len(parsed(p).body) > 1]
    assert more == []


def test_every_source_opens_with_its_rules() -> None:
    silent = [name_of(p) for p in sources() if not ast.get_docstring(parsed(p))]
    assert silent == []


def test_imports_are_absolute_and_private_names_stay_at_home() -> None:
    borrowed = []
    for path in sources():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
                names = [each.name for each in node.names if each.name.startswith("_")]
                borrowed += [f"{name_of(path)}: {node.module}.{name}" for name in names]
            elif isinstance(node, ast.ImportFrom) and node.level:
                borrowed.append(f"{name_of(path)}: a relative import")
    assert borrowed == []


def test_nothing_names_a_folder_or_an_index_of_one_machine() -> None:
    named = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        named += [f"{name_of(path)}: {hit[0]}" for hit in FORBIDDEN.finditer(text)]
    assert named == []


@pytest.mark.parametrize(
    "line",
    ["/work/" + "main/x.py", "/root/." + "pyenv/shims", "https://pypi" + ".org/simple"],
)
def test_a_forbidden_name_is_recognised(line: str) -> None:
    assert FORBIDDEN.search(line)


def pins(lock: Path) -> dict[str, str]:
    """Each pin of a lock file with its hashes, by project."""
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    return {entry.split("==")[0]: entry for entry in entries}


def test_production_gets_the_pins_that_were_tested() -> None:
    everything, runtime = (
        pins(HOUSE / name) for name in ("requirements.lock", "deploy/setup/runtime.lock")
    )
    assert {name for name, entry in runtime.items() if everything.get(name) != entry} == set()


def test_production_gets_every_dependency_and_no_tool() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())
    needed = {re.split(r"[^\w-]", each)[0] for each in project["project"]["dependencies"]}
    tools = {re.split(r"[^\w-]", each)[0] for each in project["dependency-groups"]["dev"]}
    runtime = set(pins(HOUSE / "deploy/setup/runtime.lock"))
    assert needed - runtime == set()
    assert tools & runtime == set()


@pytest.mark.parametrize(
    "name",
    ["requirements.lock", *(f"deploy/setup/{n}.lock" for n in ("runtime", "build", "fetch"))],
)
def test_every_pin_has_a_hash(name: str) -> None:
    bare = [
        project for project, entry in pins(HOUSE / name).items() if "--hash=sha256:" not in entry
    ]
    assert bare == []
