"""Rules compiled by another process, and the operator's folder."""

import os
from pathlib import Path

import pytest

from webguard.errors import ConfigError, HostError
from webguard.scan.compiler import compile_apart, own_rules
from webguard.scan.engine import Engine, shipped_rules

pytestmark = pytest.mark.slow

GOOD = 'rule Own { strings: $a = "w\u00fcrg" condition: $a }'


async def test_rules_of_another_process_are_as_good_as_ours() -> None:
    rules = compile_apart(shipped_rules() | {"own.yar": GOOD})

    found = (await Engine(rules).scan("ein würg".encode(), "")).detections

    assert [each.name for each in found] == ["Own"]


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        pytest.param("\nrule a {", "own.yar:2", "syntax error", id="syntax"),
        pytest.param("\n\udc80", "own.yar:2", "UTF-8", id="not text"),
    ],
)
def test_a_mistake_is_told_as_if_it_was_found_here(text: str, where: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        compile_apart({"own.yar": text})

    assert caught.value.where == where


def test_a_compiler_that_takes_too_long_is_ended() -> None:
    with pytest.raises(HostError, match=r"rules\.d"):
        compile_apart({"own.yar": GOOD}, timeout=0.01)


def test_a_folder_that_is_not_there_has_no_rules(tmp_path: Path) -> None:
    assert own_rules(tmp_path / "none") == {}


def test_the_rules_of_a_folder_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b.yar", "a.yar", ".c.yar", "d.yar~", "README"):
        (tmp_path / name).write_text(GOOD)

    assert list(own_rules(tmp_path).items()) == [
        (str(tmp_path / "a.yar"), GOOD),
        (str(tmp_path / "b.yar"), GOOD),
    ]


def test_a_file_that_would_be_passed_over_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yara").write_text(GOOD)

    with pytest.raises(ConfigError, match=r"\*\.yar "):
        own_rules(tmp_path)


def test_what_is_not_text_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yar").write_bytes(b"// x\n\xff")

    with pytest.raises(ConfigError, match="UTF-8") as caught:
        own_rules(tmp_path)

    assert caught.value.where == f"{tmp_path / 'a.yar'}:2"


def test_what_is_not_a_file_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yar")

    with pytest.raises(ConfigError, match="regular file"):
        own_rules(tmp_path)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.yar").open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ConfigError, match="16 MiB"):
        own_rules(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rules.d").touch()

    with pytest.raises(ConfigError, match="cannot read it"):
        own_rules(tmp_path / "rules.d")
