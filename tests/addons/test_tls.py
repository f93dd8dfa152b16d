"""TLS on both sides: which leaf a client gets, and which servers are believed."""

import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from mitmproxy import tls
from mitmproxy.certs import Cert
from mitmproxy.proxy.context import Context
from mitmproxy.test import tflow
from OpenSSL import SSL

from addons.peers import Peer
from addons.tls import Tls
from certs.authority import Authority, Purpose
from tests.addons.handshake import shake
from tests.addons.rig import origin_tls
from tests.system.host import pki
from webguard.model import Container


class Signer:
    """A signer in this process that can be told to refuse."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.asked: list[tuple[tuple[str, ...], bool]] = []
        self.keys: set[bytes] = set()

    def port(self, block_page: bool) -> Any:
        return partial(self._mint, block_page)

    async def _mint(self, block_page: bool, names: tuple[str, ...], key: bytes) -> bytes:
        self.asked.append((names, block_page))
        self.keys.add(key)
        purpose = Purpose.BLOCK_PAGE if block_page else Purpose.LEAF
        return self._authority.mint(names, key, datetime.now(UTC), purpose)


@pytest.fixture
def signer(authority: Authority) -> Signer:
    return Signer(authority)


type Make = Callable[..., Tls]


@pytest.fixture
def make(world: Any, signer: Signer, origins: pki.Identity) -> Make:
    def build(roots: bytes = b"", trusted: Any = lambda container: None) -> Tls:
        return Tls(
            mint=signer.port,
            roots=roots or origins.pem.encode(),
            record=world.recorded.append,
            stamp=world.stamp,
            peers=world.peers,
            trusted=trusted,
        )

    return build


def context(sni: str | None = "good.test", *offers: bytes) -> Context:
    """A connection whose client has said hello."""
    client, server = tflow.tclient_conn(), tflow.tserver_conn()
    client.sni, client.alpn_offers = sni, offers
    client.sockname = ("10.0.0.2", 443)
    server.error, server.alpn, server.certificate_list = None, None, []
    made = Context(client, SimpleNamespace())  # type: ignore[arg-type]
    made.server = server
    return made


async def client_side(addon: Tls, of: Context) -> SSL.Connection | None:
    data = tls.TlsData(of.client, of)
    await addon.tls_start_client(data)
    return data.ssl_conn


def server_side(addon: Tls, of: Context) -> SSL.Connection | None:
    data = tls.TlsData(of.server, of)
    addon.tls_start_server(data)
    return data.ssl_conn


def cert(identity: pki.Identity) -> Cert:
    return Cert(identity.certificate)


def names_of(signer: Signer) -> tuple[str, ...]:
    return signer.asked[-1][0]


@pytest.mark.parametrize(
    ("certified", "expected"),
    [
        pytest.param(("a.test", "b.test"), ("a.test", "b.test"), id="names"),
        pytest.param(("10.0.0.2", "a.test"), ("10.0.0.2", "a.test"), id="an address it may use"),
        pytest.param(("*.a.test", "a.test"), ("a.test",), id="a wildcard is left out"),
        pytest.param(("*.a.test",), ("no-name.invalid",), id="only a wildcard: not the address"),
        pytest.param(tuple(f"n{i}.test" for i in range(40)), 16, id="more than the signer takes"),
    ],
)
async def test_without_sni_the_leaf_repeats_what_the_server_proved(
    make: Make,
    signer: Signer,
    origins: pki.Identity,
    certified: tuple[str, ...],
    expected: tuple[str, ...] | int,
) -> None:
    of = context(None)
    of.server.certificate_list = [cert(pki.server(*certified, issuer=origins))]
    assert await client_side(make(), of) is not None
    found = names_of(signer)
    assert len(found) == expected if isinstance(expected, int) else found == expected


async def test_a_server_that_could_not_be_verified_proves_no_name(
    make: Make, signer: Signer, origins: pki.Identity
) -> None:
    of = context(None)
    of.server.certificate_list = [cert(pki.server("evil.test", issuer=origins))]
    of.server.error = "Certificate verify failed: expired"
    await client_side(make(), of)
    assert signer.asked == [(("10.0.0.2",), True)]


async def test_leaves_are_remembered_and_those_for_pages_apart(make: Make, signer: Signer) -> None:
    addon, of = make(), context()
    await client_side(addon, of)
    await client_side(addon, of)
    of.server.error = "it is down"
    await client_side(addon, of)
    await client_side(addon, of)
    assert signer.asked == [(("good.test",), False), (("good.test",), True)]


@pytest.mark.parametrize(
    ("error", "after", "minted"),
    [
        pytest.param(None, 3600, 1, id="a leaf after an hour"),
        pytest.param(None, 13 * 3600, 2, id="a leaf after half a day"),
        pytest.param("down", 601, 2, id="a page's leaf after ten minutes"),
    ],
)
async def test_leaves_are_forgotten_long_before_they_expire(
    make: Make,
    signer: Signer,
    monkeypatch: pytest.MonkeyPatch,
    error: str | None,
    after: float,
    minted: int,
) -> None:
    addon, of = make(), context()
    of.server.error = error
    await client_side(addon, of)
    later = time.monotonic() + after
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await client_side(addon, of)
    assert len(signer.asked) == minted


async def test_the_key_of_the_leaves_is_changed_every_day(
    make: Make, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    addon = make()
    await client_side(addon, context("a.test"))
    await client_side(addon, context("b.test"))
    assert len(signer.keys) == 1
    later = time.monotonic() + 25 * 3600
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await client_side(addon, context("c.test"))
    assert len(signer.keys) == 2


async def test_no_number_of_names_fills_the_memory(
    make: Make, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("addons.tls._CACHED", 3)
    addon = make()
    for name in ("a.test", "b.test", "c.test", "a.test", "d.test"):
        await client_side(addon, context(name))
    before = len(signer.asked)
    await client_side(addon, context("a.test"))  # used lately, so it stayed
    assert len(signer.asked) == before
    await client_side(addon, context("b.test"))
    assert len(signer.asked) == before + 1


async def test_without_a_leaf_there_is_no_tls_and_an_event(make: Make, world: Any) -> None:
    addon = make()
    assert await client_side(addon, context("not a name")) is None
    (event,) = world.recorded
    assert (event.kind, event.subject) == ("tls.no_leaf", "not a name")
    assert event.remedy


@pytest.mark.parametrize(
    ("server", "offers", "chosen"),
    [
        pytest.param(b"h2", ["h2"], "h2", id="the server's"),
        pytest.param(b"http/1.1", ["h2", "http/1.1"], "http/1.1", id="the server's of two"),
        pytest.param(None, ["h2", "http/1.1"], "http/1.1", id="no server: the older of two"),
        pytest.param(None, ["h2"], "h2", id="no server: what there is"),
        pytest.param(b"h2", [], None, id="a client without ALPN"),
        pytest.param(None, ["imap"], None, id="nothing in common"),
    ],
)
async def test_the_client_is_told_what_the_server_speaks(
    make: Make, authority: Authority, server: bytes | None, offers: list[str], chosen: str | None
) -> None:
    of = context()
    of.server.alpn = server
    ours = await client_side(make(), of)
    assert ours is not None
    theirs = ssl.create_default_context(cadata=authority.public.pem.decode())
    if offers:
        theirs.set_alpn_protocols(offers)
    assert shake(ours, theirs, server=False).selected_alpn_protocol() == chosen


@pytest.mark.parametrize(
    ("offers", "asked"),
    [
        pytest.param((b"h2", b"http/1.1"), [b"http/1.1"], id="both"),
        pytest.param((b"h2",), [b"h2"], id="h2 alone"),
        pytest.param((), [], id="none"),
    ],
)
def test_the_server_is_asked_for_http_1_where_the_client_knows_it(
    make: Make, offers: tuple[bytes, ...], asked: list[bytes]
) -> None:
    of = context("good.test", *offers)
    assert server_side(make(), of) is not None
    assert of.server.alpn_offers == asked


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused_on_both_sides(
    make: Make, authority: Authority, origins: pki.Identity, tmp_path: Any
) -> None:
    def old(context: ssl.SSLContext) -> ssl.SSLContext:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        return context

    addon = make()
    for each in (addon._client, addon._server):  # else the machine's own level refuses already
        each.set_cipher_list(b"ALL:@SECLEVEL=0")
    ours = await client_side(addon, context())
    assert ours is not None
    client = ssl.create_default_context(cadata=authority.public.pem.decode())
    with pytest.raises((SSL.Error, ssl.SSLError)):
        shake(ours, old(client), server=False)
    upstream = server_side(addon, context())
    assert upstream is not None
    good = pki.server("good.test", issuer=origins)
    with pytest.raises((SSL.Error, ssl.SSLError)):
        shake(upstream, old(origin_tls(good, tmp_path)), server=True)


@pytest.mark.parametrize(
    ("sni", "names", "expired", "issuer", "why"),
    [
        pytest.param("good.test", ("good.test",), False, "ours", "", id="good"),
        pytest.param("10.0.0.2", ("10.0.0.2",), False, "ours", "", id="good, by address"),
        pytest.param("::1", ("::1",), False, "ours", "", id="good, by IPv6 address"),
        pytest.param("a.good.test", ("*.good.test",), False, "ours", "", id="good, by wildcard"),
        pytest.param(None, ("any.test",), False, "ours", "", id="good chain, no name asked for"),
        pytest.param("good.test", ("evil.test",), False, "ours", "ostname", id="wrong name"),
        pytest.param("10.0.0.2", ("10.0.0.3",), False, "ours", "IP", id="wrong address"),
        pytest.param(
            "ab.good.test", ("a*.good.test",), False, "ours", "ostname", id="half a label"
        ),
        pytest.param("a.b.good.test", ("*.good.test",), False, "ours", "ostname", id="two labels"),
        pytest.param("good.test", ("good.test",), True, "ours", "expired", id="expired"),
        pytest.param("good.test", ("good.test",), False, None, "self", id="self-signed"),
        pytest.param("good.test", ("good.test",), False, "other", "issuer", id="unknown issuer"),
        pytest.param(None, ("any.test",), False, "other", "issuer", id="no name, unknown issuer"),
    ],
)
def test_servers_are_verified(
    make: Make,
    origins: pki.Identity,
    tmp_path: Any,
    sni: str | None,
    names: tuple[str, ...],
    expired: bool,
    issuer: str | None,
    why: str,
) -> None:
    signed_by = {"ours": origins, "other": pki.authority("Unknown CA"), None: None}[issuer]
    identity = pki.server(*names, issuer=signed_by, expired=expired)
    ours = server_side(make(), context(sni))
    assert ours is not None
    if not why:
        shake(ours, origin_tls(identity, tmp_path), server=True)
        return
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        shake(ours, origin_tls(identity, tmp_path), server=True)
    lib: Any = SSL._lib  # type: ignore[attr-defined]
    result = lib.X509_verify_cert_error_string(lib.SSL_get_verify_result(ours._ssl))
    assert why in SSL._ffi.string(result).decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize("sni", ["a" * 64 + ".test", "a..test", "\udcff.test"])
def test_a_name_that_cannot_be_verified_gets_no_connection(make: Make, sni: str) -> None:
    data = tls.TlsData((of := context(sni)).server, of)
    with pytest.raises(ValueError, match=r"label|codec|character"):  # then mitmproxy closes it
        make().tls_start_server(data)
    assert data.ssl_conn is None


def test_old_and_odd_roots_do_not_keep_us_from_the_others(
    make: Make, origins: pki.Identity, tmp_path: Any
) -> None:
    """Bundles have comments, CRLF, roots twice, and certificates with odd serial numbers."""
    pem = origins.pem
    odd = f"# Odd Root\r\n{pem.replace(chr(10), chr(13) + chr(10))}\r\n\r\n# again\n{pem}"
    ours = server_side(make(odd.encode()), context())
    assert ours is not None
    shake(ours, origin_tls(pki.server("good.test", issuer=origins), tmp_path), server=True)


def test_other_roots_are_used_from_the_next_connection_on(
    make: Make, origins: pki.Identity, tmp_path: Any
) -> None:
    addon = make(pki.authority("Other").pem.encode())
    addon.trust(origins.pem.encode())
    ours = server_side(addon, context())
    assert ours is not None
    shake(ours, origin_tls(pki.server("good.test", issuer=origins), tmp_path), server=True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param("tlsv1 alert unknown ca", "tls.ca_missing", id="curl"),
        pytest.param("ssl/tls alert bad certificate", "tls.ca_missing", id="older"),
        pytest.param("tls alert certificate unknown", "tls.ca_missing", id="Java"),
        pytest.param("connection closed", "tls.client_failed", id="Node says nothing"),
    ],
)
def test_a_client_without_our_ca_is_told_of_with_the_remedy(
    make: Make, world: Any, a_container: Container, error: str, kind: str
) -> None:
    of = context()
    of.client.error = error
    peer = Peer(client="", server="10.0.0.2:443", cgroup=9, container=a_container)
    world.peers.add(of.client.id, peer)
    make().tls_failed_client(tls.TlsData(of.client, of))
    (event,) = world.recorded
    assert event.kind == kind
    assert event.remedy == ("webguard cert install shop" if kind == "tls.ca_missing" else "")


def test_a_containers_name_in_a_remedy_is_no_command(
    make: Make, world: Any, a_container: Container
) -> None:
    of = context()
    of.client.error = "unknown ca"
    hostile = replace(a_container, name="x; reboot\x1b[2J")
    world.peers.add(of.client.id, Peer(client="", server="", cgroup=9, container=hostile))
    make().tls_failed_client(tls.TlsData(of.client, of))
    assert world.recorded[0].remedy == "webguard cert install 'x; reboot\\x1b[2J'"


@pytest.mark.parametrize(("error", "seen"), [(None, 1), ("it is down", 0)], ids=["leaf", "page"])
def test_only_a_leaf_that_stands_for_a_server_proves_trust(
    make: Make, world: Any, a_container: Container, error: str | None, seen: int
) -> None:
    of, trusting = context(), list[Container]()
    of.server.error = error
    world.peers.add(of.client.id, Peer(client="", server="", cgroup=9, container=a_container))
    make(trusted=trusting.append).tls_established_client(tls.TlsData(of.client, of))
    assert len(trusting) == seen


async def test_the_leaf_is_for_the_name_and_by_our_ca(make: Make, authority: Authority) -> None:
    ours = await client_side(make(), context())
    assert ours is not None
    theirs = ssl.create_default_context(cadata=authority.public.pem.decode())
    peer = shake(ours, theirs, server=False)
    leaf = x509.load_der_x509_certificate(peer.getpeercert(binary_form=True) or b"")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["good.test"]
