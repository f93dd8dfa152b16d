"""What the program has is in the docs, and what the docs show exists.

Read from the program itself, so that a new option, setting, key or event kind
fails here until a person can look it up.
"""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup, TyperOption

from webguard.cli.main import app
from webguard.errors import WebguardError
from webguard.model import (
    Container,
    Detection,
    Event,
    Http,
    Process,
    ScanResult,
    Unscanned,
    Verdict,
)
from webguard.policy.config import Config, parse

HOUSE = Path(__file__).parents[1]
DECISIONS = sorted((HOUSE / "docs/decisions").glob("*.md"))
PAGES = sorted([*HOUSE.glob("*.md"), *(HOUSE / "docs").glob("*.md"), *DECISIONS])
SOURCES = ("addons", "certs", "netiso", "webguard")
KIND = re.compile(r"[a-z]+\.[a-z_]+|loss")

type Command = TyperCommand | TyperGroup
type Kinds = tuple[set[str], list[re.Pattern[str]]]


@cache
def text(name: str) -> str:
    return (HOUSE / name).read_text()


def operate() -> str:
    return text("docs/operate.md")


@cache
def section(heading: str) -> str:
    """Return what stands under a heading, down to the next one of its level or above."""
    lines = operate().splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.lstrip("#").strip() == heading)
    level = len(lines[start]) - len(lines[start].lstrip("#"))
    end = next(
        (n for n in range(start + 1, len(lines)) if re.match(rf"#{{1,{level}}} ", lines[n])),
        len(lines),
    )
    return "\n".join(lines[start:end])


def quoted(words: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", words))


def rows(words: str) -> list[list[str]]:
    """Return the cells of every table row."""
    lines = [line for line in words.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def commands() -> dict[str, TyperCommand]:
    found: dict[str, TyperCommand] = {}

    def walk(name: str, group: TyperGroup) -> None:
        for each, below in group.commands.items():
            if isinstance(below, TyperGroup):
                walk(f"{name} {each}", below)
            elif isinstance(below, TyperCommand):
                found[f"{name} {each}"] = below

    walk("webguard", root())
    return found


def root() -> TyperGroup:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def options(command: Command) -> set[str]:
    every = [each for each in command.params if isinstance(each, TyperOption)]
    return {name for each in every for name in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("name", commands())
def test_every_command_has_a_section_with_all_its_options(name: str) -> None:
    said = section(f"`{name}`")
    missing = {each for each in options(commands()[name]) if not re.search(rf"{each}\b", said)}
    assert missing == set()


def test_every_global_option_is_explained() -> None:
    before = section("Commands").partition("### ")[0]
    assert {each for each in options(root()) if each not in before} == set()


def examples() -> Iterator[tuple[str, str]]:
    """Yield every command line that a page or the program's help shows: name of the page, line."""
    shown = re.compile(r"(?:    |# |`|; |&& )(webguard(?: [^`\n]*)?)")
    for page in PAGES:
        yield from ((page.name, hit[1]) for hit in shown.finditer(page.read_text()))
    for name, command in [("webguard", root()), *commands().items()]:
        lines = re.findall(r"^ +(webguard .*)", command.help or "", re.MULTILINE)
        yield from ((f"{name} --help", re.split(r"  +", line)[0]) for line in lines)


def test_every_example_is_a_command_that_exists() -> None:
    known = commands()
    wrong = []
    seen = 0
    for page, line in examples():
        words = shlex.split(re.split(r"[;|>&]", line)[0], comments=True)
        name = words.pop(0)
        while words and any(f"{each} ".startswith(f"{name} {words[0]} ") for each in known):
            name = f"{name} {words.pop(0)}"
        if words and name not in known and not words[0].startswith("-"):
            wrong.append(f"{page}: {line}: no such command")
        allowed = {"--help", *options(known.get(name, root()))}
        wrong += [f"{page}: {line}: no {w}" for w in words if w[0] == "-" and w not in allowed]
        seen += 1
    assert seen > 20
    assert wrong == []


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    shown = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"run", "test", "demo"} <= shown
    assert shown - targets == set()


def settings(model: type[BaseModel] = Config, above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def test_every_setting_is_in_the_table_and_no_other() -> None:
    shown = [cells[0].strip("`") for cells in rows(section("Settings"))[2:]]
    assert sorted(shown) == sorted(settings())


@pytest.mark.parametrize("key", settings())
def test_a_settings_default_is_the_one_in_the_table(key: str) -> None:
    (default,) = (cells[1] for cells in rows(section("Settings")) if cells[0] == f"`{key}`")
    *above, name = key.split(".")
    document = "".join(f"{each}:\n  " for each in above) + f"{name}: {default.strip('`')}\n"

    assert parse(document.encode(), "table") == Config()
    assert default.strip("`") not in ("", "null")


def exit_codes(error: type[WebguardError] = WebguardError) -> set[int]:
    return {error.exit_code}.union(*(exit_codes(each) for each in error.__subclasses__()))


def test_every_exit_code_is_explained_and_no_other() -> None:
    shown = {int(cells[0]) for cells in rows(section("Exit codes"))[2:]}
    assert shown == exit_codes() | {0}


def test_every_key_of_an_event_is_explained() -> None:
    said = quoted(section("Events"))
    keys = {each.name for each in fields(Event)} - {"container", "http", "scan", "verdict"}
    for above, model in (
        ("container", Container),
        ("process", Process),
        ("http", Http),
        ("scan", ScanResult),
        ("verdict", Verdict),
    ):
        keys |= {f"{above}.{each.name}" for each in fields(model)}
    keys |= {each.name for model in (Detection, Unscanned) for each in fields(model)}
    assert keys - said == set()


@cache
def parsed() -> tuple[ast.AST, ...]:
    every = [path for package in SOURCES for path in sorted((HOUSE / package).rglob("*.py"))]
    return tuple(node for path in every for node in ast.walk(ast.parse(path.read_text())))


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def told(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions that give an event its kind, or something that becomes an event."""
    if isinstance(node, ast.Call):
        # Any call: what is sorted first and becomes an event later has a kind as well.
        yield from (each.value for each in node.keywords if each.arg == "kind")
        if called(node) in ("tell", "_tell"):
            yield from node.args
    elif isinstance(node, ast.Assign):
        if any(isinstance(each, ast.Name) and each.id == "kind" for each in node.targets):
            yield node.value
    elif isinstance(node, ast.AnnAssign):  # the default of a field called kind
        if isinstance(node.target, ast.Name) and node.target.id == "kind" and node.value:
            yield node.value
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from (v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "kind")


@cache
def constants() -> dict[str, set[str]]:
    """Return the texts that names in capitals stand for, in whatever file."""
    found: dict[str, set[str]] = {}
    for node in parsed():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for each in node.targets:
                if isinstance(each, ast.Name) and each.id.strip("_").isupper():
                    found.setdefault(each.id, set()).add(str(node.value.value))
    return found


def texts(value: ast.expr) -> Iterator[str]:
    """Yield every text that an expression may stand for, as far as it can be seen."""
    for node in ast.walk(value):
        if isinstance(node, ast.Constant):
            yield str(node.value)
        elif isinstance(node, ast.Name):
            yield from constants().get(node.id, ())


@cache
def kinds() -> Kinds:
    """Return the kinds that the sources emit, and patterns for those that are put together."""
    plain: set[str] = set()
    made: list[re.Pattern[str]] = []
    for value in (each for node in parsed() for each in told(node)):
        if isinstance(value, ast.JoinedStr):
            parts = [
                re.escape(str(each.value)) if isinstance(each, ast.Constant) else "[a-z_]+"
                for each in value.values
            ]
            if re.match(r"[a-z]+\\\.", parts[0]):
                made.append(re.compile("".join(parts)))
            continue
        plain |= {each for each in texts(value) if KIND.fullmatch(each)}
    return plain, made


def explained() -> set[str]:
    found = {cells[0].strip("`") for cells in rows(section("Events")) if len(cells) == 3}
    return found - {"kind", "---"}


def test_the_sources_emit_the_kinds_that_everybody_knows() -> None:
    """Or the search below finds nothing, and agrees with everything."""
    plain, made = kinds()
    some = {"web.passed", "web.failed", "tls.ca_missing", "protection.lost", "worker.ended", "loss"}
    assert some | {"store.damaged", "isolation.on", "policy.reloaded"} <= plain
    assert [each.pattern for each in made] == [r"cert\.[a-z_]+"]


def test_every_kind_of_event_is_explained() -> None:
    plain, made = kinds()
    assert plain - explained() == set()
    assert [each.pattern for each in made if not any(map(each.fullmatch, explained()))] == []


def test_no_kind_is_explained_that_nobody_emits() -> None:
    plain, made = kinds()
    rest = explained() - plain
    assert {each for each in rest if not any(one.fullmatch(each) for one in made)} == set()


@pytest.mark.parametrize("name", ["report.py", "certificates.py", "policies.py", "isolating.py"])
def test_every_key_that_the_daemon_answers_with_is_explained(name: str) -> None:
    source = ast.parse(text(f"webguard/daemon/{name}"))
    keys = {
        key.value
        for node in ast.walk(source)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert keys
    assert keys - quoted(section("Commands")) == set()


def anchors(page: Path) -> set[str]:
    """Return the anchors that a reader's browser makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_leads_nowhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


def test_every_decision_is_linked_numbered_and_complete() -> None:
    parts = ["Situation", "Choice", "What we gave up", "How we would know we were wrong"]
    for number, page in enumerate(DECISIONS, 1):
        assert page.name.startswith(f"{number:04}-")
        assert page.read_text().startswith(f"# {number:04} ")
        assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == parts
        assert f"decisions/{page.name}" in text("docs/design.md")


def test_every_decision_that_the_sources_name_exists() -> None:
    there = {page.name[:4] for page in DECISIONS}
    files = [path for package in SOURCES for path in (HOUSE / package).rglob("*.py")]
    named = {
        number
        for path in (*files, HOUSE / "pyproject.toml", *PAGES)
        for number in re.findall(r"\bADR (\d{4})\b", path.read_text())
    }
    assert "0002" in named
    assert named - there == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    needed = {re.split(r"[^\w-]", each)[0] for each in project["dependencies"]}
    given = {cells[0] for cells in rows(text("docs/decisions/0008-dependencies.md"))[2:]}
    assert given == needed


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(text("README.md").splitlines()) < 130
