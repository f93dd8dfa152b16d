"""`webguard events`: the record of a running daemon, whatever containers and disks do to it."""

import contextlib
import csv
import io
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.host.origin import EICAR, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system

URL = f"http://{ORIGIN_V4}"
STATE = "/var/lib/webguard"
COLUMNS = {"eset12": 12, "eset13": 13}


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    with running(host, webguard_installed, [box.below_root]) as daemon:
        yield daemon


@pytest.fixture
def eicar(origin: Origin) -> str:
    origin.serve("/eicar", EICAR)
    return f"{URL}/eicar"


def read(webguard: Webguard, *options: str) -> list[str]:
    """Lines, as a program that splits at newlines gets them."""
    out = webguard.command("events", *options).out
    assert out == "" or out.endswith("\n")
    return out.split("\n")[:-1]


def raw(box: Cgroup, data: bytes) -> str:
    """Send bytes, and return what comes back. The connection stays open meanwhile."""
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 80)); s.settimeout(10);"
        "s.sendall(sys.stdin.buffer.read()); print(s.recv(65536))"
    )
    python = "/opt/webguard/venv/bin/python"
    return box.run([python, "-I", "-c", script, ORIGIN_V4], check=False, stdin=data).out


def with_text(webguard: Webguard, text: str, *options: str) -> list[str]:
    """The lines with this text, once there is one."""
    wait_until(lambda: any(text in each for each in read(webguard, *options)))
    return [each for each in read(webguard, *options) if text in each]


def test_json_is_the_record_and_the_vendors_lines_have_its_columns(
    webguard: Webguard, box: Cgroup, eicar: str
) -> None:
    curl(box, f"{eicar}?formats")
    (line,) = with_text(webguard, "?formats")
    event = json.loads(line)
    assert (event["kind"], event["subject"]) == ("web.blocked", f"{eicar}?formats")
    assert [each for each in webguard.events() if each["id"] == event["id"]] == [event]
    for form, columns in COLUMNS.items():
        (line,) = with_text(webguard, "?formats", "--format", form)
        (record,) = csv.reader(io.StringIO(line + "\n"))
        assert len(record) == columns
        assert record[2:7] == [
            "Web access protection", f"{eicar}?formats", "Eicar", "Test file", "Blocked",
        ]  # fmt: skip
        assert event["scan"]["sha256"].upper() in record


def test_only_what_was_asked_for(webguard: Webguard, box: Cgroup, origin: Origin) -> None:
    origin.serve("/eicar", EICAR)
    origin.serve("/clean", b"clean")
    for number in range(3):
        curl(box, f"{URL}/eicar?chosen{number}")
        curl(box, f"{URL}/clean?chosen{number}")
    with_text(webguard, "/clean?chosen2")
    blocked = [json.loads(each) for each in read(webguard, "--kind", "web.blocked", "-n", "2")]
    assert [each["subject"] for each in blocked] == [f"{URL}/eicar?chosen{n}" for n in (1, 2)]
    family = [json.loads(each)["kind"] for each in read(webguard, "--kind", "web", "-n", "4")]
    assert family == ["web.blocked", "web.passed"] * 2
    both = read(webguard, "--kind", "web.passed", "--kind", "daemon")
    kinds = {json.loads(each)["kind"] for each in both}
    assert {"web.passed", "daemon.started"} <= kinds
    assert kinds <= {"web.passed", "daemon.started", "daemon.stopping"}
    assert read(webguard, "-n", "0") == []
    assert read(webguard, "--container", "nobody") == []


@contextmanager
def following(webguard: Webguard, *options: str) -> Iterator[Path]:
    """`webguard events --follow`: what it has printed so far is in the file."""
    said = webguard.host.folder / "followed"
    argv: list[str | Path] = [webguard.program, "events", "--follow", *options]
    with said.open("wb") as output:
        process = webguard.host.spawn(argv, stdout=output.fileno(), stderr=subprocess.STDOUT)
    try:
        yield said
        assert process.poll() is None, said.read_text()
    finally:
        process.terminate()
        process.wait(10)


def test_who_follows_sees_each_event_once(webguard: Webguard, box: Cgroup, eicar: str) -> None:
    curl(box, f"{eicar}?before")
    with_text(webguard, "?before")
    with following(webguard, "--kind", "web", "-n", "1") as said:
        wait_until(lambda: "?before" in said.read_text())
        for number in range(5):
            curl(box, f"{eicar}?after{number}")
        wait_until(lambda: "?after4" in said.read_text(), 10)
    subjects = [json.loads(each)["subject"] for each in said.read_text().splitlines()]
    assert subjects == [f"{eicar}?{each}" for each in ("before", *(f"after{n}" for n in range(5)))]


HOSTILE = [
    pytest.param(b'a,"b",c', id="commas and quotes"),
    pytest.param(b"a%0Ab%0D%0Ac", id="escaped line breaks"),
    pytest.param(b"a\x1b[2Jb\x07", id="terminal commands"),
    pytest.param(b"a\x01\x7fb", id="control characters"),
    pytest.param(b"a\xff\xfe\xc3b", id="no UTF-8"),
    pytest.param(b"a\xc2\x85b\xe2\x80\xa8c\xe2\x80\xaed", id="line breaks of Unicode"),
    pytest.param(b"=1+1|@SUM", id="a formula"),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_a_url_holds_an_event_is_one_line_and_one_record(
    webguard: Webguard, box: Cgroup, eicar: str, hostile: bytes, request: pytest.FixtureRequest
) -> None:
    token = f"{abs(hash(request.node.name)):x}"
    asked = f"GET /eicar?{token}".encode() + hostile
    answer = raw(box, asked + b" HTTP/1.1\r\nHost: %s\r\n\r\n" % ORIGIN_V4.encode())
    assert EICAR.decode() not in answer
    (line,) = with_text(webguard, token)
    assert line.isprintable() or line.splitlines() == [line]
    event = json.loads(line)
    # Passed: the origin's own refusal of such a request, without the content.
    assert event["kind"] in ("web.blocked", "web.failed", "web.passed")
    for form, columns in COLUMNS.items():
        (line,) = with_text(webguard, token, "--format", form)
        assert line.isprintable()
        ((*record,),) = csv.reader(io.StringIO(line + "\n"))
        assert len(record) == columns


def test_a_raw_line_break_in_a_url_forges_no_line(
    webguard: Webguard, box: Cgroup, eicar: str
) -> None:
    before = len(read(webguard, "-n", "100000"))
    forged = b'{"kind":"web.passed","subject":"forged"}'
    raw(box, b"GET /eicar?\n" + forged + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    curl(box, f"{eicar}?after-forging")
    with_text(webguard, "?after-forging")
    lines = read(webguard, "-n", "100000")
    assert len(lines) - before <= 2
    assert forged.decode() not in lines


def test_the_record_survives_a_restart(
    webguard: Webguard, host: TestHost, box: Cgroup, eicar: str
) -> None:
    curl(box, f"{eicar}?survivor")
    (before,) = with_text(webguard, "?survivor")
    assert webguard.stop() == 0
    with running(host, webguard.program, [box.below_root]) as daemon:
        assert with_text(daemon, "?survivor") == [before]
        kinds = [json.loads(each)["kind"] for each in read(daemon, "--kind", "daemon")]
        assert kinds[-3:] == ["daemon.started", "daemon.stopping", "daemon.started"]


@pytest.fixture
def small_disk(webguard: Webguard, host: TestHost) -> Iterator[Path]:
    """The state's folder on a file system of 4 MiB, while no daemon runs."""
    if webguard.process.poll() is None:
        webguard.stop()
    host.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", STATE])
    try:
        yield host.path(STATE)
    finally:
        host.run(["umount", STATE])


def test_neither_a_damaged_record_nor_a_full_disk_stops_the_traffic(
    webguard: Webguard, host: TestHost, box: Cgroup, origin: Origin, small_disk: Path
) -> None:
    origin.serve("/eicar", EICAR)
    origin.serve("/clean", b"clean")
    (small_disk / "events.db").write_bytes(b"this was a data base once " * 400)
    (small_disk / "events.db").chmod(0o600)
    with running(host, webguard.program, [box.below_root]) as daemon:
        said = [json.loads(each) for each in with_text(daemon, "events.db", "--kind", "store")]
        aside = [each.name for each in small_disk.glob("events.db.*") if "-" not in each.suffix]
        assert any(name in f"{each}" for each in said for name in aside), (aside, said)
        daemon.wait_for(lambda found: len(found) == 1, kind="store.damaged")  # on its output

        fill(small_disk / "filler")
        assert curl(box, f"{URL}/clean").out == "clean"
        for number in range(300):
            if daemon_says_full(daemon):
                break
            assert curl(box, f"{URL}/eicar?{number}{'x' * 6000}").err == "403"
        assert daemon_says_full(daemon)
        daemon.wait_for(len, kind="store.failed")
        assert daemon.status()["protected"]

        (small_disk / "filler").unlink()
        curl(box, f"{URL}/eicar?room-again")
        with_text(daemon, "?room-again")


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def daemon_says_full(daemon: Webguard) -> bool:
    return "cannot be written: database or disk is full" in daemon.errors.read_text()
