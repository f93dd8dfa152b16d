"""`make demo` shows what it promises, and leaves nothing behind."""

import os
import re
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tests.system.test_testhost import MARKS, left_of, machine

pytestmark = pytest.mark.system

DEMO = Path(__file__).parents[2] / "deploy" / "demo" / "run"
_MARK = "WEBGUARD_DEMO_TEST"


@pytest.fixture(scope="module")
def played() -> tuple[str, list[str]]:
    """What it printed, and what is new on the machine afterwards."""
    before, mark = machine(), f"{_MARK}={uuid4()}"
    environment = {**os.environ, **dict([mark.split("=")])}
    done = subprocess.run([DEMO], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    name = re.search(r"protects the containers of /(wgt-\w+)\.docker", done.stdout)
    assert name, done.stdout
    new = [line for line in machine() - before if any(each in line.lower() for each in MARKS)]
    return done.stdout, [*new, *left_of(name[1], []), *processes_with(mark)]


def processes_with(mark: str) -> list[str]:
    """Processes that the demo started, or their children, by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended
    return found


def between(text: str, start: str, end: str) -> str:
    """What was printed from one line to another."""
    assert text.count(start) == 1, f"{start!r} is not there once:\n{text}"
    return text.partition(start)[2].partition(end)[0]


def test_content_is_blocked_and_a_container_comes_to_trust_us(
    played: tuple[str, list[str]],
) -> None:
    said, _ = played
    before, _, after = said.partition("webguard cert install shop")
    assert "PROTECTED: " in before
    assert "http://good.test/clean\n  a clean page" in before
    assert "certificate problem" in before
    assert "https://good.test/clean\n  a clean page" in after
    assert "shop: trusted" in after
    assert said.count('"title": "Blocked by Webguard"') == 2
    assert "EICAR-STANDARD" not in said


def test_containers_are_cut_off_and_come_back(played: tuple[str, list[str]]) -> None:
    said, _ = played
    before = between(said, "--- Two containers on a bridge", "$ webguard isolation on")
    during = between(said, "$ webguard isolation on", "$ webguard isolation off")
    after = between(said, "$ webguard isolation off", "$ webguard events ")
    assert "web$ curl http://db/\n  7 in stock" in before
    assert "isolation is ON, by root: incident-4711" in during
    assert re.search(r"\tdb\tprivate\tcut\t", during)
    assert re.search(r"\tshop\thost\topen\t.*is not inspected", during)
    assert "http://db/\n  curl: (28)" in during
    assert "good.test/eicar\n  200" in during
    assert "web$ curl http://db/\n  7 in stock" in after
    assert "good.test/eicar\n  403" in after


def test_the_record_is_shown(played: tuple[str, list[str]]) -> None:
    said, _ = played
    record = between(said, "$ webguard events   ", "$ webguard cert remove")
    kinds = re.findall(r"^([a-z_]+\.[a-z_]+) ", record, re.MULTILINE)
    wanted = ("web.passed", "web.blocked", "tls.ca_missing", "isolation.on", "isolation.off")
    assert {*wanted} <= {*kinds}
    assert "incident-4711" in record
    assert re.search(
        r"^[\d/]+ [\d:]+ [AP]M,Error,Web access protection,.*,Eicar,", record, re.MULTILINE
    )
    assert "shop: not installed" in said.partition("$ webguard cert remove")[2]
    assert re.search(r"^That took \d+ seconds\.$", said, re.MULTILINE)


def test_the_machine_is_as_it_was(played: tuple[str, list[str]]) -> None:
    _, left = played
    assert left == []
