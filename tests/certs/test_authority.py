"""The CA and its leaves: what is made, what is refused, and who accepts it."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certs import authority as module
from certs.authority import CERTIFICATE_FILE, KEY_FILE, Authority, Purpose
from certs.certificate import NAME_PREFIX
from webguard.errors import HostError

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


P256 = ec.generate_private_key(ec.SECP256R1())


def leaf_of(chain: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain)[0]


def test_a_ca_is_made_once_and_then_loaded(tmp_path: Path) -> None:
    made = Authority.ensure(tmp_path / "ca")
    loaded = Authority.ensure(tmp_path / "ca")

    assert loaded.public == made.public
    assert (tmp_path / "ca").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "ca" / KEY_FILE).stat().st_mode & 0o7777 == 0o600
    assert sorted(p.name for p in (tmp_path / "ca").iterdir()) == [KEY_FILE, CERTIFICATE_FILE]


def test_two_hosts_have_nothing_in_common(tmp_path: Path) -> None:
    one = x509.load_pem_x509_certificate(Authority.ensure(tmp_path / "one").public.pem)
    two = x509.load_pem_x509_certificate(Authority.ensure(tmp_path / "two").public.pem)

    assert one.subject != two.subject
    assert one.serial_number != two.serial_number
    assert one.public_key() != two.public_key()


def test_the_ca_has_the_profile_that_strict_clients_ask_for(authority: Authority) -> None:
    ca = x509.load_pem_x509_certificate(authority.public.pem)

    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        (True, True, 0)
    )
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert identifier.value.key_identifier
    assert timedelta(days=730) < ca.not_valid_after_utc - NOW < timedelta(days=1096)
    assert authority.public.common_name.startswith(NAME_PREFIX)


@pytest.mark.parametrize("missing", [KEY_FILE, CERTIFICATE_FILE])
def test_half_a_ca_is_an_error_and_never_replaced(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "ca"
    Authority.ensure(folder)
    (folder / missing).unlink()
    left = {p.name: p.read_bytes() for p in folder.iterdir()}

    with pytest.raises(HostError, match="restore the folder from a backup"):
        Authority.ensure(folder)

    assert {p.name: p.read_bytes() for p in folder.iterdir()} == left


def test_a_key_and_a_certificate_of_different_cas_are_an_error(tmp_path: Path) -> None:
    Authority.ensure(tmp_path / "one")
    Authority.ensure(tmp_path / "two")
    (tmp_path / "one" / KEY_FILE).write_bytes((tmp_path / "two" / KEY_FILE).read_bytes())

    with pytest.raises(HostError, match="do not belong together"):
        Authority.ensure(tmp_path / "one")


@pytest.mark.parametrize("name", [KEY_FILE, CERTIFICATE_FILE])
@pytest.mark.parametrize("content", [b"", b"\xff" * 99], ids=["empty", "garbage"])
def test_a_damaged_ca_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    Authority.ensure(tmp_path / "ca")
    (tmp_path / "ca" / name).write_bytes(content)

    with pytest.raises(HostError, match="restore"):
        Authority.ensure(tmp_path / "ca")


def test_a_key_of_another_kind_is_an_error(tmp_path: Path) -> None:
    Authority.ensure(tmp_path / "ca")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ca" / KEY_FILE).write_bytes(pem)

    with pytest.raises(HostError, match="elliptic"):
        Authority.ensure(tmp_path / "ca")


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777], ids=oct)
def test_a_folder_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca").chmod(mode)

    with pytest.raises(HostError, match="chmod 0700"):
        Authority.ensure(tmp_path / "ca")

    assert list((tmp_path / "ca").iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604], ids=oct)
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    Authority.ensure(tmp_path / "ca")
    (tmp_path / "ca" / KEY_FILE).chmod(mode)

    with pytest.raises(HostError, match="only its owner can read"):
        Authority.ensure(tmp_path / "ca")


def test_a_folder_or_key_that_is_a_link_is_refused(tmp_path: Path) -> None:
    Authority.ensure(tmp_path / "ca")
    (tmp_path / "link").symlink_to("ca")
    with pytest.raises(HostError, match="make it a directory"):
        Authority.ensure(tmp_path / "link")

    (tmp_path / "ca" / KEY_FILE).rename(tmp_path / "elsewhere")
    (tmp_path / "ca" / KEY_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="restore"):
        Authority.ensure(tmp_path / "ca")


def test_an_expired_ca_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VALIDITY", timedelta(seconds=-1))

    with pytest.raises(HostError, match="expired"):
        Authority.ensure(tmp_path / "ca")


def test_nothing_is_signed_after_the_end_of_the_ca(authority: Authority) -> None:
    with pytest.raises(HostError, match="expired"):
        authority.mint(("a.example",), spki(P256), NOW + timedelta(days=5000))


@pytest.mark.parametrize(
    ("names", "sought"),
    [
        pytest.param(("shop.example.com",), "shop.example.com", id="host"),
        pytest.param(("origin",), "origin", id="single label"),
        pytest.param(("my_host.example.com",), "my_host.example.com", id="underscore"),
        pytest.param(("a.example", "b.example"), "b.example", id="second name"),
        pytest.param(("xn--bcher-kva.example",), "xn--bcher-kva.example", id="IDN"),
        pytest.param(("192.0.2.7",), "192.0.2.7", id="IPv4"),
        pytest.param(("2001:db8::7",), "2001:db8::7", id="IPv6"),
        pytest.param(
            (".".join(["a" * 60] * 4),), ".".join(["a" * 60] * 4), id="too long for a common name"
        ),
    ],
)
@pytest.mark.parametrize(
    "key",
    [
        pytest.param(P256, id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA"),
    ],
)
def test_a_strict_client_completes_a_handshake(
    authority: Authority,
    tmp_path: Path,
    names: tuple[str, ...],
    sought: str,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    chain = authority.mint(names, spki(key), datetime.now(UTC))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server.pem").write_bytes(secret + chain)

    assert handshake(tmp_path / "server.pem", authority.public.pem, sought) == "done"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "server.pem", authority.public.pem, "other.example")


def handshake(server_file: Path, trusted: bytes, name: str) -> str:
    """Let a client as strict as Python 3.13's default meet a server, in memory."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(server_file)
    client = ssl.create_default_context(cadata=trusted.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(10):
        for end in tuple(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not ends:
            return "done"
    return "stuck"


@pytest.mark.skipif(which("openssl") is None, reason="no openssl program here")
@pytest.mark.parametrize("name", ["shop.example", "192.0.2.1", "x" * 60 + ".example.com"])
def test_openssl_verifies_a_leaf(authority: Authority, tmp_path: Path, name: str) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.public.pem)
    (tmp_path / "leaf.pem").write_bytes(authority.mint((name,), spki(P256), datetime.now(UTC)))
    argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"]

    done = subprocess.run(
        [*argv, tmp_path / "ca.pem", tmp_path / "leaf.pem"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )

    assert done.stdout == f"{tmp_path / 'leaf.pem'}: OK\n"


@pytest.mark.skipif(which("openssl") is None, reason="no openssl program here")
def test_the_subject_hash_is_openssls(authority: Authority) -> None:
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-subject_hash"],
        input=authority.public.pem,
        capture_output=True,
        check=True,
        timeout=10,
    )

    assert done.stdout.decode().strip() == authority.public.subject_hash


@pytest.mark.parametrize(
    ("purpose", "lives"),
    [(Purpose.LEAF, timedelta(days=7)), (Purpose.BLOCK_PAGE, timedelta(hours=1))],
    ids=lambda value: str(value),
)
def test_a_leaf_lives_as_long_as_its_purpose(
    authority: Authority, purpose: Purpose, lives: timedelta
) -> None:
    now = NOW.replace(microsecond=0) + timedelta(days=30)

    leaf = leaf_of(authority.mint(("a.example",), spki(P256), now, purpose))

    assert leaf.not_valid_after_utc == now + lives
    assert timedelta(hours=1) <= now - leaf.not_valid_before_utc <= timedelta(days=1)


def test_a_leaf_is_not_older_than_the_ca(authority: Authority) -> None:
    ca = x509.load_pem_x509_certificate(authority.public.pem)

    leaf = leaf_of(authority.mint(("a.example",), spki(P256), ca.not_valid_before_utc))

    assert leaf.not_valid_before_utc == ca.not_valid_before_utc


def test_a_leaf_can_serve_and_nothing_else(authority: Authority) -> None:
    leaf = leaf_of(authority.mint(("a.example", "192.0.2.1"), spki(P256), NOW))
    other = leaf_of(authority.mint(("a.example",), spki(P256), NOW))

    extensions = leaf.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [
        oid.dotted_string for oid in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    ] == ["1.3.6.1.5.5.7.3.1"]
    assert leaf.serial_number != other.serial_number


def test_a_name_too_long_for_a_subject_is_in_a_critical_extension(authority: Authority) -> None:
    leaf = leaf_of(authority.mint(("x" * 60 + ".example",), spki(P256), NOW))

    assert leaf.subject == x509.Name([])
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30\x82\xff\xff" * 99, id="garbage"),
        pytest.param(spki(P256) + bytes(5000), id="too long"),
        pytest.param(spki(ec.generate_private_key(ec.SECP521R1())), id="P-521"),
        pytest.param(spki(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
        pytest.param(spki(rsa.generate_private_key(65537, 1024)), id="RSA 1024"),
    ],
)
def test_a_key_that_is_weak_or_unusual_is_not_certified(authority: Authority, key: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        authority.mint(("a.example",), key, NOW)
