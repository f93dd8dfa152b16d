"""What bad input gets: an answer or an event with the remedy, in bounded time; never a hang."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host.origin import GOOD_V4, ORIGIN_V4, Manner, Origin
from tests.system.host.testhost import Cgroup, Done, TestHost
from tests.system.product import Webguard, curl, raw, running

pytestmark = pytest.mark.system

MIB = 1024 * 1024
CA = "/etc/ssl/certs/ESET-SSL-Filter-CA.pem"


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def lenient(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    settings = {"web": {"max_body": "1MiB", "unscanned": "allow", "origin_timeout": 2}}
    with running(host, webguard_installed, [box.below_root], settings) as daemon:
        yield daemon


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("manner", "status"),
    [
        pytest.param(Manner.SHORT, "502", id="less than it announced"),
        pytest.param(Manner.RESET, "502", id="reset in the body"),
        pytest.param(Manner.BAD_CHUNK, "502", id="a chunk size that is no number"),
        pytest.param(Manner.GARBAGE, "502", id="no HTTP"),
        pytest.param(Manner.DROP, "502", id="closes without a word"),
        pytest.param(Manner.SILENT, "504", id="never answers"),
    ],
)
def test_a_server_that_misbehaves_is_told_of(
    lenient: Webguard, box: Cgroup, origin: Origin, manner: Manner, status: str, scheme: str
) -> None:
    path = f"/bad-{manner.name.lower()}-{scheme}"
    origin.serve(path, b"x" * 5000, manner=manner)
    assert_told(lenient, curl(box, f"{scheme}://{GOOD_V4}{path}", "--cacert", CA), path, status)


def test_a_server_that_never_shakes_hands_is_told_of(
    lenient: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/", manner=Manner.NO_HANDSHAKE)
    done = curl(box, f"https://{GOOD_V4}/no-handshake", "--cacert", CA)
    assert_told(lenient, done, "/no-handshake", "502")
    assert "no TLS handshake in time" in done.out


def assert_told(webguard: Webguard, done: Done, path: str, status: str) -> None:
    assert done.err == status
    assert "mitm" not in done.out.lower()
    event = webguard.wait_for(
        lambda found: any(each["subject"].endswith(path) for each in found), kind="web.failed"
    )[-1]
    assert event["remedy"]
    assert event["id"] in done.out


def test_more_than_announced_is_cut_at_the_announced_length(
    lenient: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/long", b"y" * 5000, manner=Manner.LONG)
    done = curl(box, f"http://{ORIGIN_V4}/long")
    assert set(done.out) == {"y"}


@pytest.mark.parametrize("manner", [Manner.LENGTH, Manner.CHUNKED, Manner.CLOSE])
def test_a_body_over_the_limit_is_delivered_and_said_to_be_unscanned(
    lenient: Webguard, box: Cgroup, origin: Origin, manner: Manner
) -> None:
    path = f"/big-{manner.name.lower()}"
    digest = origin.serve_big(path, 5 * MIB, manner=manner)
    target = lenient.host.folder / "got"

    done = curl(box, f"http://{ORIGIN_V4}{path}", "-o", str(target))

    assert done.err == "200"
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    event = lenient.wait_for(
        lambda found: any(each["subject"].endswith(path) for each in found), kind="web.unscanned"
    )[-1]
    assert "web.max_body" in event["scan"]["unscanned"][0]["reason"]
    assert event["verdict"]["rule"] == "web.unscanned"


def test_a_large_upload_reaches_the_origin_and_is_said_to_be_unscanned(
    lenient: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/upload-big", b"thanks")
    source = lenient.host.folder / "upload"
    source.write_bytes(b"u" * 3 * MIB)

    done = curl(box, f"http://{ORIGIN_V4}/upload-big", "--data-binary", f"@{source}")

    assert (done.err, done.out) == ("200", "thanks")
    (request,) = origin.requests("/upload-big")
    assert request.body_size == 3 * MIB
    lenient.wait_for(
        lambda found: any(each["subject"].endswith("/upload-big") for each in found),
        kind="web.unscanned",
    )


def test_nobody_at_the_port_is_a_page_too(lenient: Webguard, box: Cgroup) -> None:
    done = curl(box, f"http://{ORIGIN_V4}:8443/nobody")
    assert done.err == "502"
    lenient.wait_for(
        lambda found: any("/nobody" in each["subject"] for each in found), kind="web.failed"
    )


def test_bytes_that_are_no_request_are_refused_without_a_name(
    lenient: Webguard, box: Cgroup
) -> None:
    done = raw(box, b"GET  / HTTP/9.9\r\nx\r\n\r\n")
    assert "mitm" not in done.out.lower()


def test_what_is_not_http_is_tunnelled_and_said_so(
    lenient: Webguard, box: Cgroup, origin: Origin
) -> None:
    raw(box, b"\x00\x01binary\x02")
    (event, *_) = lenient.wait_for(
        lambda found: any(each["outcome"] == "tunnelled" for each in found), kind="web.unscanned"
    )
    assert event["scan"]["unscanned"]
