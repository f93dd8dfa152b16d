"""`webguard scan`: what it prints, for people and for programs, and how it ends."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.webguard.scan.packing import encrypted, tarred, zipped
from webguard.cli.context import Context
from webguard.cli.scan import exit_code, scan
from webguard.daemon.ondemand import Tally
from webguard.daemon.paths import Paths

pytestmark = pytest.mark.slow

# In two pieces, or virus scanners would take this file for the test file.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"


@pytest.fixture(autouse=True)
def _as_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's scanning process has a user that only an installation has."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def webguard(root: Path, *argv: object) -> Result:
    app = typer.Typer()
    app.command()(scan)
    return CliRunner().invoke(app, [str(each) for each in argv], obj=Context(Paths(root=root)))


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "clean").write_bytes(b"clean")
    name = os.fsencode(top) + b"/bad\n\xff\x1b[2J"
    Path(os.fsdecode(name)).write_bytes(EICAR)
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(2**42)
    (top / "link").symlink_to("clean")
    return top


def test_programs_get_an_object_a_line_and_the_exact_name(tmp_path: Path, tree: Path) -> None:
    result = webguard(tmp_path, "--json", tree, tmp_path / "absent")

    *outcomes, summary = lines(result)
    found, large, absent = sorted(outcomes, key=lambda each: -len(each["detections"]))
    if "absent" in large["path"]:
        large, absent = absent, large
    assert result.exit_code == 50
    assert found["type"] == "found"
    assert found["path"] == f"{tree}/bad\n\N{REPLACEMENT CHARACTER}\x1b[2J"
    assert base64.b64decode(found["path_base64"]) == os.fsencode(tree) + b"/bad\n\xff\x1b[2J"
    assert found["detections"][0]["name"] == "Eicar"
    assert (large["type"], large["path"]) == ("unscanned", f"{tree}/sparse")
    assert "path_base64" not in large
    assert absent["unscanned"][0]["reason"] == "no such file or directory"
    summary.pop("seconds")
    assert summary == {
        "type": "summary",
        "exit_code": 50,
        "files": 2,
        "folders": 1,
        "bytes": 5 + len(EICAR),
        "found": 1,
        "unscanned": 2,
        "absent": 1,
        "passed": {"link": 1},
        "interrupted": False,
    }


def test_people_get_a_report_that_cannot_move_their_cursor(tmp_path: Path, tree: Path) -> None:
    result = webguard(tmp_path, tree)

    assert result.exit_code == 50
    assert "\x1b" not in result.stdout
    bad, sparse, summary = result.stdout.splitlines()
    assert bad.split("\t")[0] == "found"
    assert bad.split("\t")[2] == "Eicar (test file)"
    assert sparse.startswith(f"not scanned\t{tree}/sparse\tit is larger than")
    assert "2 files scanned" in summary
    assert "1 found, 1 not scanned; passed over: 1 x link" in summary
    assert "not root" in result.stderr


def test_what_is_in_archives_is_found_or_said_to_be_unread(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "bad").write_bytes(tarred({"a/eicar": EICAR}, "w:gz"))
    (top / "locked").write_bytes(encrypted({"eicar": EICAR}))
    (top / "cut").write_bytes(zipped({"a": os.urandom(9000)})[:4000])
    (top / "bomb").write_bytes(zipped({"zeros": bytes(16 * 1024**2)}))

    everything = webguard(tmp_path, top)
    codes = {each.name: webguard(tmp_path, "--quiet", each).exit_code for each in top.iterdir()}

    assert codes == {"bad": 50, "locked": 10, "cut": 10, "bomb": 10}
    assert f"{top}/bad\tEicar (test file) in gzip/tar/a/eicar" in everything.stdout
    assert f"{top}/locked\tzip/eicar: it is encrypted" in everything.stdout
    assert f"{top}/bomb\tzip/zeros: it grows more than 250-fold" in everything.stdout


def test_quiet_says_it_by_the_exit_code(tmp_path: Path, tree: Path) -> None:
    result = webguard(tmp_path, "--quiet", tree / "sparse")

    assert (result.exit_code, result.output) == (10, "")


@pytest.mark.parametrize(
    ("tally", "code"),
    [
        pytest.param(Tally(files=1), 0, id="clean"),
        pytest.param(Tally(unscanned=1), 10, id="not scanned"),
        pytest.param(Tally(unscanned=1, absent=1), 100, id="absent"),
        pytest.param(Tally(interrupted=True), 100, id="interrupted"),
        pytest.param(Tally(found=1, unscanned=1, absent=1, interrupted=True), 50, id="found"),
    ],
)
def test_the_worst_decides_the_exit_code(tally: Tally, code: int) -> None:
    assert exit_code(tally) == code


def test_own_rules_and_hash_lists_are_used(tmp_path: Path, tree: Path) -> None:
    own = Paths(root=tmp_path).rules
    own.mkdir(parents=True)
    (own / "own.yar").write_text('rule Own { strings: $a = "clean" condition: $a }')
    own.with_name("lists.d").mkdir()
    sha1 = hashlib.sha1(b"clean").hexdigest()
    (own.with_name("lists.d") / "known.yaml").write_text(
        f"name: known\ntype: hashes\nentries: ['{sha1} Known']\n"
    )

    result = webguard(tmp_path, "--json", tree / "clean")

    assert [each["name"] for each in lines(result)[0]["detections"]] == ["known/Known", "Own"]


def test_a_rule_with_a_mistake_is_a_mistake_of_the_configuration(
    tmp_path: Path, tree: Path
) -> None:
    own = Paths(root=tmp_path).rules
    own.mkdir(parents=True)
    (own / "own.yar").write_text("rule {")

    result = webguard(tmp_path, tree)

    assert getattr(result.exception, "exit_code", None) == 2
    assert "own.yar:1" in str(result.exception)


@pytest.mark.parametrize(
    "argv", [pytest.param([], id="no path"), pytest.param(["--max-size", "0", "/"], id="size")]
)
def test_wrong_usage_is_2(tmp_path: Path, argv: list[str]) -> None:
    assert webguard(tmp_path, *argv).exit_code == 2


def test_root_without_the_service_user_scans_nothing(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("webguard.cli.scan.SCAN_USER", "webguard-absent")

    result = webguard(tmp_path, tree)

    assert result.exit_code == 100
    assert "make install" in result.stderr
    assert "Traceback" not in result.stderr
