"""Slice 2: HTTPS of a cgroup whose client trusts our CA, and what becomes of bad servers."""

import datetime
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.system.host.origin import (
    EICAR,
    EXPIRED,
    GOOD,
    GOOD_P384,
    GOOD_V4,
    GOOD_V6,
    ORIGIN_V4,
    SELF_SIGNED,
    UNKNOWN_ISSUER,
    WRONG_NAME,
    Origin,
)
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system

CA = "/etc/ssl/certs/ESET-SSL-Filter-CA.pem"
PYTHON = "/opt/webguard/venv/bin/python"
BOTH = pytest.mark.parametrize("name", [GOOD_V4, GOOD_V6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    with running(host, webguard_installed, [box.below_root]) as daemon:
        yield daemon


def presented(box: Cgroup, address: str, name: str) -> x509.Certificate:
    """The certificate that a client in the cgroup is shown."""
    said = box.run(
        ["openssl", "s_client", "-connect", f"{address}:443", "-servername", name, "-showcerts"],
        check=False,
    )
    return x509.load_pem_x509_certificate(
        ("-----BEGIN" + said.out.partition("-----BEGIN")[2]).encode()
    )


@BOTH
@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_clean_content_arrives_byte_for_byte(
    webguard: Webguard, box: Cgroup, origin: Origin, name: str, protocol: str
) -> None:
    digest = origin.serve("/clean", bytes(range(256)) * 999)
    target = webguard.host.folder / "got"

    done = curl(box, f"https://{name}/clean", protocol, "--cacert", CA, "-o", str(target))

    assert (done.err, done.code) == ("200", 0)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    (request,) = origin.requests("/clean")
    assert request.sni == name


@BOTH
@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_eicar_is_answered_with_a_page(
    webguard: Webguard, box: Cgroup, origin: Origin, name: str, protocol: str, encoding: str
) -> None:
    origin.serve("/eicar", EICAR, encoding=encoding)
    done = curl(box, f"https://{name}/eicar", protocol, "--cacert", CA)
    assert done.err == "403"
    assert "EICAR-STANDARD" not in done.out


def test_a_client_that_insists_on_http2_is_served(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    """GRPC clients offer h2 alone; nothing of HTTP/1.1 may be forced on them."""
    said = box.run(
        ["openssl", "s_client", "-connect", f"{ORIGIN_V4}:443", "-servername", GOOD, "-alpn", "h2"],
        check=False,
    )
    assert "No ALPN negotiated" in said.out or "ALPN protocol: h2" in said.out


def test_the_leaf_names_what_was_asked_has_its_own_key_and_lives_a_week(
    webguard: Webguard, box: Cgroup
) -> None:
    ca = x509.load_pem_x509_certificate(webguard.host.path(CA).read_bytes())

    leaf = presented(box, ORIGIN_V4, GOOD)

    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [GOOD]
    leaf.verify_directly_issued_by(ca)
    assert leaf.public_key() != ca.public_key()
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < datetime.timedelta(days=8)


def test_no_key_lies_beside_the_public_certificate(webguard: Webguard) -> None:
    assert b"PRIVATE" not in webguard.host.path(CA).read_bytes()
    folder = webguard.host.path("/var/lib/webguard/ca")
    assert folder.stat().st_mode & 0o777 == 0o700
    keys = [each for each in folder.iterdir() if b"PRIVATE" in each.read_bytes()]
    assert [each.stat().st_mode & 0o777 for each in keys] == [0o600]


BAD = pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(EXPIRED, "expired", id="expired"),
        pytest.param(SELF_SIGNED, "self-signed", id="self-signed"),
        pytest.param(WRONG_NAME, "hostname mismatch", id="wrong name"),
        pytest.param(UNKNOWN_ISSUER, "unable to get local issuer", id="unknown issuer"),
    ],
)


@BAD
def test_a_bad_certificate_is_a_page_with_its_reason_and_never_content(
    webguard: Webguard, box: Cgroup, origin: Origin, name: str, reason: str
) -> None:
    origin.serve("/secret", b"what only a good server may send")

    done = curl(box, f"https://{name}/secret", "--cacert", CA)

    assert done.err == "502"
    assert reason.lower() in done.out.lower().replace("self signed", "self-signed")
    assert origin.requests("/secret") == []
    event = webguard.wait_for(
        lambda found: any(name in each["subject"] for each in found), kind="web.blocked"
    )[-1]
    assert "tls.extra_ca" in event["remedy"]
    leaf = presented(box, ORIGIN_V4, name)
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert lifetime <= datetime.timedelta(hours=2, minutes=1)  # one backwards, one to come


@BAD
def test_a_bad_certificate_of_an_http2_server_is_a_page_over_http2(
    webguard: Webguard, box: Cgroup, origin: Origin, name: str, reason: str
) -> None:
    origin.serve("/secret", b"what only a good server may send")
    script = Path(__file__).parent / "http2_only.py"

    done = box.run([PYTHON, "-I", script, ORIGIN_V4, name, "/secret", CA])
    either = curl(box, f"https://{name}/secret", "--http2", "--cacert", CA)

    said = json.loads(done.out)
    assert (said["protocol"], said["status"]) == ("h2", "502")
    assert either.err == "502"  # over HTTP/1.1, which it takes as well
    for body in (said["body"], either.out):
        assert reason.lower() in body.lower().replace("self signed", "self-signed")
    assert origin.requests("/secret") == []


def test_a_server_with_another_kind_of_key_is_fine(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/clean", b"p384")
    assert curl(box, f"https://{GOOD_P384}/clean", "--cacert", CA).out == "p384"


def test_an_address_instead_of_a_name_is_verified_and_served(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    """Such a client sends no SNI: the leaf repeats what the server proved to be."""
    origin.serve("/clean", b"by address")
    done = curl(box, f"https://{ORIGIN_V4}/clean", "--cacert", CA)
    assert (done.out, done.code) == ("by address", 0)


def test_a_client_that_does_not_trust_us_is_told_of(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    origin.serve("/clean", b"nothing")
    assert curl(box, f"https://{GOOD}/clean").code == 60  # curl: the peer's certificate
    (event, *_) = webguard.wait_for(bool, kind="tls.ca_missing")
    assert "webguard cert install" in event["remedy"]


def test_without_a_signer_there_is_no_connection_and_an_event(
    webguard: Webguard, box: Cgroup, origin: Origin
) -> None:
    (signer,) = webguard.children("webguard.daemon.signer")
    os.kill(signer, signal.SIGSTOP)
    try:
        done = curl(
            box,
            "https://never-asked-before.test/",
            "--cacert",
            CA,
            "--connect-to",
            f"::{ORIGIN_V4}:443",
        )
    finally:
        os.kill(signer, signal.SIGCONT)
    assert done.code == 35  # curl: the handshake failed, at once and not by its own time-out
    (event, *_) = webguard.wait_for(bool, kind="tls.no_leaf")
    assert event["remedy"]


def test_a_signer_that_dies_is_replaced(webguard: Webguard, box: Cgroup, origin: Origin) -> None:
    (signer,) = webguard.children("webguard.daemon.signer")
    os.kill(signer, signal.SIGKILL)
    webguard.wait_for(bool, kind="signer.ended")
    origin.serve("/clean", b"signed by another")
    wait_until(
        lambda: (
            curl(box, f"https://{GOOD_P384}/clean?{time.time()}", "--cacert", CA).out
            == "signed by another"
        )
    )
