"""Slice 1: plain HTTP of a cgroup, without any container runtime."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host.origin import EICAR, HOST_V4, ORIGIN_V4, ORIGIN_V6, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running

pytestmark = pytest.mark.system

BOTH = pytest.mark.parametrize("address", [ORIGIN_V4, f"[{ORIGIN_V6}]"], ids=["IPv4", "IPv6"])
RULE = 'rule test_marker { strings: $a = "a marker of the test\'s own" condition: $a }'


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    """A cgroup that counts as a container."""
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    with running(host, webguard_installed, [box.below_root], rules={"test.yar": RULE}) as daemon:
        yield daemon


@BOTH
def test_clean_content_arrives_byte_for_byte_through_the_proxy(
    webguard: Webguard, box: Cgroup, origin: Origin, address: str
) -> None:
    body = bytes(range(256)) * 999
    digest = origin.serve("/clean", body)

    target = webguard.host.folder / "got"
    done = curl(box, f"http://{address}/clean", "-o", str(target))

    assert done.err == "200"
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    (request,) = origin.requests("/clean")
    event = webguard.wait_for(
        lambda found: any(each["subject"].endswith("/clean") for each in found), kind="web.passed"
    )[-1]
    assert event["http"]["client"].rpartition(":")[2] != str(request.port)
    assert event["scan"]["sha256"] == digest


@BOTH
@pytest.mark.parametrize("encoding", ["", "gzip", "deflate", "br", "zstd"])
def test_eicar_is_answered_with_a_page_and_never_delivered(
    webguard: Webguard, box: Cgroup, origin: Origin, address: str, encoding: str
) -> None:
    path = f"/{encoding or 'plain'}-{'v6' if ':' in address else 'v4'}"
    origin.serve(path, EICAR, encoding=encoding)

    done = curl(box, f"http://{address}{path}", "-i")

    assert done.err == "403"
    assert "EICAR-STANDARD" not in done.out
    head, _, body = done.out.partition("\r\n\r\n")
    problem = json.loads(body)
    assert problem["status"] == 403
    assert "mitm" not in done.out.lower()
    events = webguard.wait_for(
        lambda found: any(each["subject"].endswith(path) for each in found), kind="web.blocked"
    )
    event = next(each for each in events if each["subject"].endswith(path))
    assert event["scan"]["detections"][0]["name"] == "Eicar"
    assert event["id"] in head
    assert event["http"]["server"] == f"{address}:80"


def test_a_browser_gets_a_page_for_a_person(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/page", EICAR)
    done = curl(box, f"http://{ORIGIN_V4}/page", "-H", "Accept: text/html,*/*;q=0.8")
    assert done.err == "403"
    assert "<h1>Blocked by Webguard</h1>" in done.out


def test_a_rule_of_the_operators_own_blocks(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/marked", b"... a marker of the test's own ...")
    origin.serve("/unmarked", b"... nothing ...")
    assert curl(box, f"http://{ORIGIN_V4}/marked").err == "403"
    assert curl(box, f"http://{ORIGIN_V4}/unmarked").out == "... nothing ..."


def test_an_infected_upload_does_not_reach_the_origin(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/upload", b"thanks")
    done = curl(box, f"http://{ORIGIN_V4}/upload", "--data-binary", EICAR.decode())
    assert done.err == "403"
    assert origin.requests("/upload") == []


def test_the_hosts_own_processes_are_untouched(
    webguard: Webguard, host: TestHost, origin: Origin
) -> None:
    origin.serve("/host", EICAR)
    before = served(webguard)

    done = host.run(["curl", "-sS", "-w", "%{stderr}%{local_port}", f"http://{ORIGIN_V4}/host"])

    assert done.out.encode() == EICAR
    (request,) = origin.requests("/host")
    assert (request.peer, str(request.port)) == (HOST_V4, done.err)
    assert served(webguard) == before


def served(webguard: Webguard) -> int:
    """The connections that the worker has accepted: it tells them once a second."""
    told = [-2, -1]
    while told[-1] != told[-2]:
        told.append(webguard.status()["workers"][0]["served"])
        time.sleep(2)
    return told[-1]
