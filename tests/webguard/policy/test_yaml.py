"""YAML as operators write it, and as it goes wrong."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.errors import ConfigError
from webguard.policy.yaml import MAX_BYTES, MAX_DEPTH, Value, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a: true", {"a": True}, id="true"),
        pytest.param("a: FALSE", {"a": False}, id="false in capitals"),
        pytest.param(
            "a: [on, off, yes, no, y]", {"a": ["on", "off", "yes", "no", "y"]}, id="words"
        ),
        pytest.param("on: 1", {"on": 1}, id="a word as a key"),
        pytest.param("a: 0777", {"a": 777}, id="a leading zero is not octal"),
        pytest.param("a: [0o17, 0x1f, -3, +4]", {"a": [15, 31, -3, 4]}, id="integers"),
        pytest.param("a: 1:30", {"a": "1:30"}, id="not base 60"),
        pytest.param("a: 1_000", {"a": "1_000"}, id="no underscores in numbers"),
        pytest.param("a: 2026-11-21", {"a": "2026-11-21"}, id="a date is a word"),
        pytest.param("a: [1.5, .5, 1e3, .inf]", {"a": [1.5, 0.5, 1e3, float("inf")]}, id="floats"),
        pytest.param("a: [~, null, ]", {"a": [None, None]}, id="nulls"),
        pytest.param("a:", {"a": None}, id="nothing is null"),
        pytest.param("'1': \"true\"", {"1": "true"}, id="quotes make words"),
        pytest.param("a: !!str 12", {"a": "12"}, id="a core tag"),
        pytest.param("\ufeffa: 1", {"a": 1}, id="byte order mark"),
        pytest.param("", None, id="empty"),
        pytest.param("# only a comment\n", None, id="comment"),
        pytest.param("---\n...\n", None, id="empty document"),
    ],
)
def test_yaml_1_2_core_words_are_understood(text: str, value: Value) -> None:
    assert parse(text.encode(), "f").value == value


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        pytest.param(b"a: 1\nb: 2\na: 3", "f:3", "'a' is here twice, first on line 1", id="twice"),
        pytest.param(b"x:\n  a: 1\n  'a': 3", "f:3", "here twice", id="twice, further down"),
        pytest.param(b"a: &x 1\nb: *x", "f:2", "aliases", id="alias"),
        pytest.param(b"a: &x {<<: *x}", "f:1", "aliases", id="recursive alias"),
        pytest.param(b"a:\n\tb: 1", "f:2", "spaces, never with tabs", id="tab"),
        pytest.param(b"a: 1\nb: \0", "f:2", "U+0000", id="NUL"),
        pytest.param(b"\x7fELF\x02\x01\xff\xfe", "f:1", "not UTF-8", id="binary"),
        pytest.param(b"a: 1\nb: \xff", "f:2", "not UTF-8", id="Latin-1 on line 2"),
        pytest.param(b"[" * (MAX_DEPTH + 1), "f:1", "nested deeper", id="deep"),
        pytest.param(b"[" * (MAX_BYTES - 1), "f:1", "nested deeper", id="very deep"),
        pytest.param(b"#" * (MAX_BYTES + 1), "f:1", "larger than 256 KiB", id="huge"),
        pytest.param(b"a: 1\n---\nb: 2", "f:2", "second document", id="two documents"),
        pytest.param(b"a: !!python/object/apply:os.system [x]", "f:1", "tag", id="python tag"),
        pytest.param(b"a: !!set {x}", "f:1", "tag", id="set"),
        pytest.param(b"a: !own x", "f:1", "tag", id="own tag"),
        pytest.param(b"a: !!bool no", "f:1", "not a valid bool", id="forced bool"),
        pytest.param(b"a: !!int x", "f:1", "not a valid int", id="forced int"),
        pytest.param(b"a: " + b"9" * 5000, "f:1", "not a valid int", id="number of 5000 digits"),
        pytest.param(b"1: a", "f:1", "a key must be a word", id="a number as a key"),
        pytest.param(b"? [a, b]\n: 1", "f:1", "a key must be a word", id="a list as a key"),
        pytest.param(b"a: b: c", "f:1", "mapping values", id="two colons"),
        pytest.param(b"a: 'x\n", "f:", "quote", id="open quote"),
        pytest.param(b"a: [1\nb: 2", "f:2", "expected", id="open bracket"),
        pytest.param(b"a: @x", "f:1", "cannot start any token", id="reserved character"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_a_remedy(
    content: bytes, where: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(content, "f")

    assert caught.value.where.startswith(where)
    assert problem in caught.value.problem
    assert caught.value.problem.endswith(")")


def test_lines_are_known_for_keys_and_items() -> None:
    document = parse(b"# comment\na:\n\n  b:\n    - 1\n    - 2\n", "f")

    assert document.line(("a",)) == 2
    assert document.line(("a", "b")) == 4
    assert document.line(("a", "b", 1)) == 6
    assert document.line(("a", "b", 7, "x")) == 4  # the nearest around it


@given(st.one_of(st.binary(max_size=300), st.text("abc:-[]{}&*!|>'\"#%@ \n\t1?,").map(str.encode)))
def test_any_bytes_are_a_document_or_a_config_error(content: bytes) -> None:
    with suppress(ConfigError):
        parse(content, "f")
