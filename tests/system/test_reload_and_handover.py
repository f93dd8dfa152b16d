"""Other settings, and another daemon, while traffic flows: none of it fails, none goes unseen."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.host.origin import EICAR, GOOD_V4, GOOD_V6, ORIGIN_V4, ORIGIN_V6, Origin
from tests.system.host.picture import Snapshot
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system

CA = "/etc/ssl/certs/ESET-SSL-Filter-CA.pem"
REQUESTS = 1000
CLEAN, BAD = "/clean", "/bad"
SERVERS = (
    f"http://{ORIGIN_V4}",
    f"http://[{ORIGIN_V6}]",
    f"https://{GOOD_V4}",
    f"https://{GOOD_V6}",
)
# Twice, because every second thread keeps its connection.
URLS = [f"{each}{path}" for each in SERVERS for path in (CLEAN, CLEAN, BAD, BAD)]


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@dataclass
class Traffic:
    """Requests that are made while the block runs, and afterwards what came of them."""

    made: Sequence[dict[str, Any]] = ()


@contextmanager
def traffic(box: Cgroup, urls: Sequence[str], least: int) -> Iterator[Traffic]:
    stop, said = box.host.folder / "stop", box.host.folder / "traffic.jsonl"
    stop.unlink(missing_ok=True)
    script = Path(__file__).parent / "traffic.py"
    with said.open("wb") as output:
        argv = [sys.executable, "-I", script, stop, str(least), CA, *urls]
        asking = box.host.spawn(argv, cgroup=box, stdout=output.fileno())
    told = Traffic()
    try:
        yield told
        stop.touch()
        assert asking.wait(120) == 0
        told.made = [json.loads(line) for line in said.read_text().splitlines()]
    finally:
        asking.kill()
        asking.wait(10)


@contextmanager
def successor(webguard: Webguard) -> Iterator[Webguard]:
    """`webguard run --take-over`, once it has taken over; stopped at the end."""
    folder = webguard.host.folder
    output, errors = folder / "successor.jsonl", folder / "successor.log"
    with output.open("wb") as out, errors.open("wb") as err:
        process = webguard.host.spawn(
            [webguard.program, "run", "--take-over"], stdout=out.fileno(), stderr=err.fileno()
        )
    new = Webguard(webguard.host, webguard.program, process, output, errors)
    try:
        yield new
    finally:
        if process.poll() is None:
            new.stop()


def taken_over(old: Webguard, new: Webguard) -> int:
    """Wait until `new` protects and `old` has gone; return how `old` ended."""
    try:
        code = old.process.wait(90)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the old one stays:\n{new.errors.read_text()[-3000:]}") from None
    wait_until(lambda: new.status()["protected"])
    return code


def tables(host: TestHost) -> set[str]:
    found = host.run(["nft", "list", "tables"]).out.split("\n")
    return {each.rpartition(" ")[2] for each in found if "webguard" in each}


def recorded(webguard: Webguard, kind: str) -> list[dict[str, Any]]:
    done = webguard.command("events", "--json", "-n", "100000", "--kind", kind)
    return [json.loads(line) for line in done.out.splitlines()]


def numbers(subjects: Sequence[str]) -> list[int]:
    return sorted(int(each.rpartition("?")[2]) for each in subjects)


def test_no_request_fails_and_none_is_unseen_over_three_reloads_and_a_take_over(
    host: TestHost, webguard_installed: Path, box: Cgroup, origin: Origin
) -> None:
    clean, bad = origin.serve(CLEAN, bytes(range(256)) * 40), origin.serve(BAD, EICAR)
    before = host.snapshot()
    with running(host, webguard_installed, [box.below_root]) as old, successor_later() as later:
        warm_up(box)
        before_old = tables(host)
        with traffic(box, URLS, REQUESTS) as seen:
            for generation in (2, 3, 4):
                answer = json.loads(old.command("policy", "reload", "--json").out)
                assert answer == {"generation": generation}
                time.sleep(0.5)  # some traffic by this generation
            new = later(old)
            assert taken_over(old, new) == 0
            time.sleep(0.5)
        status = new.status()
        assert (status["pid"], status["protected"]) == (new.pid, True)
        assert tables(host).isdisjoint(before_old)
        assert len(tables(host)) == len(before_old)
        assert new.stop() == 0

        assert len(seen.made) >= REQUESTS
        assert [each for each in seen.made if "failed" in each] == []
        for each in seen.made:
            wanted = (200, clean) if each["path"] == CLEAN else (403, each["sha256"])
            assert (each["status"], each["sha256"]) == wanted
            assert each["path"] == CLEAN or each["sha256"] != bad
        # The origin saw each once, and none from the socket of the one who asked.
        ports = {each["number"]: each["port"] for each in seen.made}
        asked = [each for each in origin.requests() if "?" in each.path and each.path[-1] != "w"]
        assert numbers([each.path for each in asked]) == sorted(ports)
        assert [each for each in asked if ports[numbers([each.path])[0]] == each.port] == []
        events = [*old.events(), *new.events()]
        for kind, path in (("web.passed", CLEAN), ("web.blocked", BAD)):
            inspected = [e["subject"] for e in events if e["kind"] == kind and "?w" not in e["subject"]]
            asked_for = sorted(each["number"] for each in seen.made if each["path"] == path)
            assert numbers(inspected) == asked_for
    assert host.snapshot() - before == []
