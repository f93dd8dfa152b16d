"""Archives in web traffic: opened in a process of their own, and not scanned without it."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host.origin import EICAR, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Event, Webguard, curl, running, wait_until
from tests.webguard.scan.packing import encrypted, tarred, zipped

pytestmark = pytest.mark.system

SCANNER = "webguard.daemon.unpacking"


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    with running(host, webguard_installed, [box.below_root]) as daemon:
        wait_until(lambda: scanner(daemon) != 0, 60)
        yield daemon


def scanner(webguard: Webguard) -> int:
    """The pid of the one that works, as `status` has it; 0 for none."""
    (one,) = webguard.status()["scanners"]
    return int(one["pid"])


def event_of(webguard: Webguard, kind: str, end: str) -> Event:
    found = webguard.wait_for(lambda all_: any(e["subject"].endswith(end) for e in all_), kind=kind)
    return next(each for each in found if each["subject"].endswith(end))


@pytest.mark.parametrize(
    ("body", "encoding", "member"),
    [
        pytest.param(zipped({"docs/eicar.com": EICAR}), "", "zip/docs/eicar.com", id="zip"),
        pytest.param(zipped({"e": EICAR}), "br", "br/zip/e", id="zip in br"),
        pytest.param(tarred({"e": EICAR}, "w:gz"), "", "gzip/tar/e", id="tar.gz"),
        pytest.param(zipped({"z": zipped({"e": EICAR})}), "", "zip/z/zip/e", id="zip in zip"),
    ],
)
def test_malware_in_an_archive_is_blocked_and_its_member_named(
    webguard: Webguard, box: Cgroup, origin: Origin, body: bytes, encoding: str, member: str
) -> None:
    path = f"/bad-{hashlib.sha256(body).hexdigest()[:8]}"
    origin.serve(path, body, encoding=encoding)

    assert curl(box, f"http://{ORIGIN_V4}{path}").err == "403"

    event = event_of(webguard, "web.blocked", path)
    assert [each["member"] for each in event["scan"]["detections"]] == [member]
    assert event["verdict"]["rule"] == "yara:Eicar"


def test_a_clean_archive_arrives_byte_for_byte(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    digest = origin.serve("/clean", zipped({f"{n}": os.urandom(50_000) for n in range(40)}))
    target = webguard.host.folder / "got"

    assert curl(box, f"http://{ORIGIN_V4}/clean", "-o", str(target)).err == "200"

    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    event_of(webguard, "web.passed", "/clean")


def test_what_cannot_be_opened_is_not_scanned_and_policy_decides(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/locked", encrypted({"e": EICAR}))

    assert curl(box, f"http://{ORIGIN_V4}/locked", "-o", "/dev/null").err == "200"

    event = event_of(webguard, "web.unscanned", "/locked")
    assert event["scan"]["unscanned"] == [{"where": "zip/e", "reason": "it is encrypted"}]
    assert event["verdict"]["rule"] == "web.unscanned"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_without_the_scan_process_policy_decides_and_it_comes_back(
    webguard: Webguard, box: Cgroup, origin: Origin, number: signal.Signals
) -> None:
    path = f"/away-{number.name}"
    origin.serve(path, zipped({"e": EICAR}))
    origin.serve("/flat", EICAR)
    (before,) = webguard.children(SCANNER)
    ended = len(webguard.events(kind="scanner.ended"))
    os.kill(before, number)
    if number is signal.SIGSTOP:
        assert curl(box, f"http://{ORIGIN_V4}{path}", "-o", "/dev/null").err == "200"
        event = event_of(webguard, "web.unscanned", path)
        (unscanned,) = event["scan"]["unscanned"]
        assert unscanned["where"] == "archive"
        assert unscanned["reason"].startswith("the scan process did not answer")
        assert event["verdict"]["rule"] == "web.unscanned"
    assert curl(box, f"http://{ORIGIN_V4}/flat").err == "403"

    webguard.wait_for(lambda found: len(found) > ended, kind="scanner.ended", timeout=40)
    wait_until(lambda: scanner(webguard) not in (0, before), 40)
    assert curl(box, f"http://{ORIGIN_V4}{path}").err == "403"
    assert webguard.status()["protected"]


def test_other_rules_are_put_in_force_in_archives_too(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    rule = webguard.host.path("/etc/webguard/rules.d/archive.yar")
    origin.serve("/marked", zipped({"m": b"a marker in a zip"}))
    assert curl(box, f"http://{ORIGIN_V4}/marked", "-o", "/dev/null").err == "200"
    ended = len(webguard.events(kind="scanner.ended"))
    rule.parent.mkdir(exist_ok=True)
    rule.write_text('rule In { strings: $a = "a marker in a zip" condition: $a }')
    try:
        webguard.command("policy", "reload")
        assert curl(box, f"http://{ORIGIN_V4}/marked").err == "403"
    finally:
        rule.unlink()
        webguard.command("policy", "reload")
    assert curl(box, f"http://{ORIGIN_V4}/marked", "-o", "/dev/null").err == "200"
    assert len(webguard.events(kind="scanner.ended")) == ended
