"""What cannot be scanned, with `web.unscanned: block`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host.origin import EICAR, ORIGIN_V4, Manner, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, raw, running

pytestmark = pytest.mark.system

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def strict(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    settings = {"web": {"max_body": "1MiB", "unscanned": "block", "origin_timeout": 2}}
    with running(host, webguard_installed, [box.below_root], settings) as daemon:
        yield daemon


@pytest.mark.parametrize("manner", [Manner.LENGTH, Manner.CHUNKED, Manner.CLOSE])
def test_a_body_over_the_limit_is_blocked(
    strict: Webguard, box: Cgroup, origin: Origin, manner: Manner
) -> None:
    path = f"/big-{manner.name.lower()}"
    origin.serve_big(path, 5 * MIB, manner=manner)
    done = curl(box, f"http://{ORIGIN_V4}{path}")
    assert done.err == "403"
    assert "web.max_body" in done.out
    strict.wait_for(
        lambda found: any(each["subject"].endswith(path) for each in found),
        kind="web.blocked",
    )


def test_a_large_upload_is_blocked(strict: Webguard, box: Cgroup, origin: Origin) -> None:
    origin.serve("/upload-big", b"thanks")
    source = strict.host.folder / "upload"
    source.write_bytes(b"u" * 3 * MIB)
    done = curl(
        box, f"http://{ORIGIN_V4}/upload-big", "--data-binary", f"@{source}", "-H", "Expect:"
    )
    assert done.err == "413"
    assert origin.requests("/upload-big") == []


def test_a_lying_encoding_is_blocked(strict: Webguard, box: Cgroup, origin: Origin) -> None:
    origin.serve("/liar", b"plain text", headers={"Content-Encoding": "gzip"})
    assert curl(box, f"http://{ORIGIN_V4}/liar").err == "403"


def test_what_is_not_http_is_not_passed_on(strict: Webguard, box: Cgroup, origin: Origin) -> None:
    raw(box, b"\x00\x01binary\x02\r\n\r\n")
    assert origin.requests() == []


def test_malware_is_blocked_all_the_same(strict: Webguard, box: Cgroup, origin: Origin) -> None:
    origin.serve("/eicar", EICAR)
    assert curl(box, f"http://{ORIGIN_V4}/eicar").err == "403"
