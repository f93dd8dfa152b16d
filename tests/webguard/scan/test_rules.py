"""The shipped rules: what they find, what they leave alone, and what is said about them."""

import asyncio
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webguard.scan.engine import Engine, compile_rules, shipped_rules

pytestmark = pytest.mark.slow

HOUSE = Path(__file__).parents[3]
EXAMPLES: dict[str, dict[str, list[list[str]]]] = yaml.safe_load(
    (Path(__file__).parent / "examples" / "rules.yaml").read_text()
)
STAND_INS = {"WALLET": "4" + "A1b2C3d4E5" * 9 + "F6g7", "ELF": "\x7fELF"}
RULE = re.compile(r"^rule (\w+)\n\{(.*?)^\}", re.DOTALL | re.MULTILINE)
META = re.compile(r'^ {8}(\w+) = "(.*)"$', re.MULTILINE)
RULES = {
    found[1]: dict(META.findall(found[2].partition("strings:")[0]))
    for text in shipped_rules().values()
    for found in RULE.finditer(text)
}
ENGINE = Engine(compile_rules(shipped_rules()))
# No example, but what containers download: bounded, the whole disk was scanned by hand.
ORDINARY = ("/usr/share/doc", "/usr/share/perl5", "/usr/lib/python3", "/usr/bin", "/etc")


def examples(kind: str) -> Iterator[object]:
    for rule, each in EXAMPLES.items():
        for number, pieces in enumerate(each[kind], 1):
            content = "".join(pieces)
            for name, text in STAND_INS.items():
                content = content.replace(name, text)
            yield pytest.param(rule, content.encode("latin-1"), id=f"{rule} {number}")


def names(content: bytes) -> list[str]:
    return [found.name for found in asyncio.run(ENGINE.scan(content, "")).detections]


@pytest.mark.parametrize(("rule", "content"), examples("fires"))
def test_a_rule_finds_what_it_is_for(rule: str, content: bytes) -> None:
    assert names(content) == [RULES[rule]["name"]]


@pytest.mark.parametrize(("rule", "content"), examples("silent"))
def test_a_rule_leaves_the_innocent_alone(rule: str, content: bytes) -> None:
    assert names(content) == []


def test_every_rule_has_examples_and_every_example_a_rule() -> None:
    assert set(EXAMPLES) == set(RULES)
    assert all(each["fires"] and each["silent"] for each in EXAMPLES.values())


def test_every_rule_says_what_it_is_and_where_it_comes_from() -> None:
    for rule, meta in RULES.items():
        assert set(meta) == {"name", "kind", "description", "reference", "provenance"}, rule


def test_every_rule_is_in_the_documentation() -> None:
    text = (HOUSE / "docs" / "rules.md").read_text()
    assert [meta["name"] for meta in RULES.values() if f"`{meta['name']}`" not in text] == []


def test_our_own_rules_and_documents_are_not_what_they_describe() -> None:
    own = [*(HOUSE / "docs").rglob("*.md"), *(HOUSE / "tests" / "webguard" / "scan").rglob("*.*")]
    own += (HOUSE / "webguard" / "scan" / "rules").glob("*.yar")
    assert {
        str(path.relative_to(HOUSE)): found
        for path in own
        if path.is_file() and (found := names(path.read_bytes()))
    } == {}


def ordinary(folder: str) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            plain = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
            if plain and path.stat().st_size < 512 * 1024:
                yield path


@pytest.mark.parametrize("folder", ORDINARY)
def test_ordinary_files_are_left_alone(folder: str) -> None:
    if not Path(folder).is_dir():
        pytest.skip(f"this machine has no {folder}")
    found = {
        str(path): hits
        for path in itertools.islice(ordinary(folder), 150)
        if (hits := names(path.read_bytes()))
    }
    assert found == {}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="#!/bin sh-i>&/dev/tcp0.1<?php\n", max_size=500))
def test_text_that_resembles_a_script_is_scanned_whole(text: str) -> None:
    result = asyncio.run(ENGINE.scan(text.encode(), ""))

    assert result.unscanned == ()
