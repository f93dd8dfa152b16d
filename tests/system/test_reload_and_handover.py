"""Other settings, and another daemon, while traffic flows: none of it fails, none goes unseen."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.host.origin import EICAR, GOOD_V4, GOOD_V6, ORIGIN_V4, ORIGIN_V6, Origin
from tests.system.host.picture import Snapshot
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until
from tests.system.test_leaves_no_trace import comes_back, left

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
# Every second thread keeps its connection.
URLS = [f"{each}{path}" for path in (CLEAN, BAD) for each in (*SERVERS, *SERVERS[1:], SERVERS[0])]


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@dataclass
class Traffic:
    """Requests that are made until `stop`, and afterwards what came of them."""

    process: "subprocess.Popen[bytes]"
    flag: Path
    output: Path
    made: Sequence[dict[str, Any]] = ()

    def stop(self) -> None:
        self.flag.touch()
        assert self.process.wait(120) == 0
        told = [json.loads(line) for line in self.output.read_text().splitlines()]
        self.made = sorted(told, key=lambda each: int(each["number"]))

    def of(self, path: str) -> list[dict[str, Any]]:
        return [each for each in self.made if each["path"] == path]


@contextmanager
def traffic(box: Cgroup, urls: Sequence[str], least: int) -> Iterator[Traffic]:
    stop, said = box.host.folder / "stop", box.host.folder / "traffic.jsonl"
    stop.unlink(missing_ok=True)
    script = Path(__file__).parent / "traffic.py"
    with said.open("wb") as output:
        argv: list[str | Path] = [sys.executable, "-I", script, stop, str(least), CA, *urls]
        asking = box.host.spawn(argv, cgroup=box, stdout=output.fileno())
    try:
        yield Traffic(asking, stop, said)
    finally:
        asking.kill()
        asking.wait(10)


@contextmanager
def successor_of(old: Webguard) -> Iterator[Callable[[], Webguard]]:
    """What starts `webguard run --take-over`; that is stopped at the end."""
    folder = old.host.folder
    output, errors = folder / "successor.jsonl", folder / "successor.log"
    started: list[Webguard] = []

    def start() -> Webguard:
        with output.open("wb") as out, errors.open("wb") as err:
            argv: list[str | Path] = [old.program, "run", "--take-over"]
            process = old.host.spawn(argv, stdout=out.fileno(), stderr=err.fileno())
        started.append(Webguard(old.host, old.program, process, output, errors))
        return started[0]

    try:
        yield start
    finally:
        for each in started:
            if each.process.poll() is None:
                each.stop()


def taken_over(old: Webguard, new: Webguard) -> int:
    """Wait until `new` protects and `old` has gone; return how `old` ended."""
    try:
        code = old.process.wait(90)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the old one stays:\n{new.errors.read_text()[-3000:]}") from None
    assert new.process.poll() is None, new.errors.read_text()[-3000:]
    said = new.command("status", "--wait", "60", check=False, timeout=90)
    assert said.code == 0, said.out + new.errors.read_text()[-3000:]
    return code


def tables(host: TestHost) -> set[str]:
    found = host.run(["nft", "list", "tables"]).out.split("\n")
    return {each.rpartition(" ")[2] for each in found if "webguard" in each}


def numbers(subjects: Sequence[str]) -> list[int]:
    return sorted(int(each.rpartition("?")[2]) for each in subjects)


@pytest.fixture(scope="module")
def before(host: TestHost, webguard_installed: Path, box: Cgroup) -> Snapshot:
    """The host with the kernel's modules loaded: they bring sysctls, and stay."""
    with running(host, webguard_installed, [box.below_root], {"web": {"workers": 2}}):
        pass
    return host.snapshot()


def test_no_request_fails_and_none_is_unseen_over_three_reloads_and_a_take_over(
    host: TestHost, webguard_installed: Path, box: Cgroup, before: Snapshot, origin: Origin
) -> None:
    clean, bad = origin.serve(CLEAN, bytes(range(256)) * 40), origin.serve(BAD, EICAR)
    with running(host, webguard_installed, [box.below_root], {"web": {"workers": 2}}) as old:
        of_old = tables(host)
        with traffic(box, URLS, REQUESTS) as seen, successor_of(old) as later:
            for generation in (2, 3, 4):
                answer = json.loads(old.command("policy", "reload", "--json").out)
                assert answer == {"generation": generation}
                time.sleep(0.5)  # some traffic by this generation
            new = later()
            assert taken_over(old, new) == 0
            time.sleep(0.5)
            seen.stop()
            # Not at once: on a busy machine the last of the traffic can delay a self-test.
            wait_until(lambda: bool(new.status()["protected"]), 30)
            assert new.status()["pid"] == new.pid
            assert tables(host).isdisjoint(of_old)
            assert len(tables(host)) == len(of_old)
            assert new.stop() == 0
        events = [*old.events(), *new.events()]

    nothing_failed(seen.made, {CLEAN: (200, clean), BAD: (403, bad)})
    assert len(seen.made) >= REQUESTS
    for kind, path in (("web.passed", CLEAN), ("web.blocked", BAD)):
        inspected = [each["subject"] for each in events if each["kind"] == kind]
        assert numbers(inspected) == [each["number"] for each in seen.of(path)]
    # The origin was asked once for each, and never by the socket of the one who asked us.
    port = {each["number"]: each["port"] for each in seen.made}
    asked = {numbers([each.path])[0]: each.port for each in origin.requests()}
    assert asked.keys() == port.keys()
    assert [number for number in port if port[number] == asked[number]] == []
    assert left(host, before) == []


def nothing_failed(made: Sequence[dict[str, Any]], wanted: dict[str, tuple[int, str]]) -> None:
    """Every answer is the wanted one; with a 403 the content is anything but the origin's."""
    failed = [each for each in made if "failed" in each]
    assert failed == [], json.dumps(failed)
    for each in made:
        status, digest = wanted[each["path"]]
        assert each["status"] == status
        assert (each["sha256"] == digest) is (status == 200)


@pytest.mark.parametrize(
    ("before_it", "after_it"),
    [
        pytest.param(
            {"workers": 6, "ports": [80, 443]},
            {"workers": 1, "ports": [8080, 443, 80]},
            id="fewer workers, more ports",
        ),
        pytest.param(
            {"workers": 1, "ports": [8080, 80, 443]},
            {"workers": 4, "ports": [443, 80]},
            id="more workers, fewer ports",
        ),
    ],
)
def test_a_successor_may_have_other_workers_and_ports(
    host: TestHost,
    webguard_installed: Path,
    box: Cgroup,
    before: Snapshot,
    origin: Origin,
    before_it: dict[str, Any],
    after_it: dict[str, Any],
) -> None:
    clean, bad = origin.serve(CLEAN, b"clean"), origin.serve(BAD, EICAR)
    settings = host.path("/etc/webguard/webguard.yaml")
    urls = [f"{each}{path}" for path in (CLEAN, BAD) for each in SERVERS]
    inspected = {port: "403" if port in after_it["ports"] else "200" for port in (80, 8080)}
    with running(host, webguard_installed, [box.below_root], {"web": before_it}) as old:
        changed = yaml.safe_load(settings.read_text())
        changed["web"] = after_it
        with traffic(box, urls, 1) as seen, successor_of(old) as start:
            settings.write_text(yaml.safe_dump(changed))
            new = start()
            assert taken_over(old, new) == 0
            seen.stop()
            wait_until(lambda: bool(new.status()["protected"]), 30)
            assert len(new.workers()) == after_it["workers"]
            got = {port: curl(box, f"{SERVERS[0]}:{port}{BAD}").err for port in inspected}
            assert got == inspected
            assert new.stop() == 0
        # Nobody was thought to hang for what the other's workers took.
        kinds = {each["kind"] for each in (*old.events(), *new.events())}
        assert kinds.isdisjoint({"worker.ended", "interception.off"}), kinds
    nothing_failed(seen.made, {CLEAN: (200, clean), BAD: (403, bad)})
    assert left(host, before) == []


def test_a_successor_that_fails_on_the_way_takes_nothing_with_it(
    host: TestHost, webguard_installed: Path, box: Cgroup, before: Snapshot, origin: Origin
) -> None:
    origin.serve(BAD, EICAR)
    settings = host.path("/etc/webguard/webguard.yaml")
    with running(host, webguard_installed, [box.below_root], {"web": {"workers": 2}}) as old:
        good, protecting = settings.read_text(), host.snapshot()
        settings.write_text("web:\n  prots: [80]\n")
        refused = old.command("run", "--take-over", check=False)
        settings.write_text(good)
        assert (refused.code, "webguard.yaml:2" in refused.err) == (2, True)

        with successor_of(old) as start:
            new = start()
            wait_until(lambda: bool(new.children("webguard.daemon.worker")), 60)
            new.process.kill()
            new.process.wait(10)
        comes_back(host, protecting, 30)
        assert old.status()["pid"] == old.pid
        assert curl(box, f"{SERVERS[0]}{BAD}").err == "403"
        assert old.stop() == 0
    assert left(host, before) == []
