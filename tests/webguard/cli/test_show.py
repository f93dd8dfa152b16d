"""Nothing that a container chose moves a terminal's cursor."""

import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.cli import show


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "a\nb", "\x9b31m", "\u202e", "\x07", "\ud800"])
def test_what_controls_a_terminal_is_replaced(text: str) -> None:
    assert "\N{REPLACEMENT CHARACTER}" in show.plain(text)


@pytest.mark.parametrize("text", ["shop-1", "Bäckerei", "店", "a b"])
def test_what_can_be_read_stays(text: str) -> None:
    assert show.plain(text) == text


@given(text=st.text())
def test_whatever_it_was_can_be_printed(text: str) -> None:
    plain = show.plain(text)
    assert plain.isprintable()
    assert len(plain) == len(text)
    plain.encode()


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show.complain("first\nsecond\x1b[2J")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_in_a_pipe_has_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(["name"], [["a\nb", 1], ["c", 2]])
    assert capsys.readouterr().out.splitlines() == ["a\N{REPLACEMENT CHARACTER}b\t1", "c\t2"]


@pytest.mark.parametrize(("no_color", "bold"), [("", True), ("1", False)])
def test_a_table_on_a_terminal_has_a_head_and_colour_only_if_wanted(
    no_color: str, bold: bool
) -> None:
    ours, terminal = pty.openpty()
    draw = "from webguard.cli import show; show.table(['NAME', 'PID'], [['shop', 1]])"
    environment = {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": no_color}
    try:
        subprocess.run(
            [sys.executable, "-c", draw], stdout=terminal, env=environment, check=True, timeout=60
        )
        drawn = os.read(ours, 65536).decode()
    finally:
        os.close(terminal)
        os.close(ours)
    assert ["shop", "1"] in [each.split() for each in drawn.splitlines()]
    assert "NAME" in drawn
    assert ("\x1b" in drawn) is bold
