"""Terminate TLS to the client with a leaf of ours, and verify the server's.

mitmproxy's own addon signs each leaf with the CA's key in the same process. We
have no CA key: a leaf's key pair is ours, its certificate comes from the signer
through `Mint`, and names what the client asked for.

A server whose certificate cannot be verified gets nothing passed on. So that
the client can be told why, the connection is given a leaf *for the block page*
(an hour long, and kept apart from the others), and every request on it is
answered by `addons.failures`; no byte of that server's is ever sent under it.

A client without SNI checks one of the names in its leaf, and we do not know
which. It checks once, for all servers that follow on its connection: each must
be the one that the leaf was made for, or prove all of its names (ADR 0009).
"""

import ipaddress
import re
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy import connection, tls
from mitmproxy.certs import Cert
from OpenSSL import SSL, crypto

from addons.peers import Peers
from addons.report import text
from webguard.model import Container, Event, Severity
from webguard.ports import Mint, Record, Stamp

# No partial wildcards, and never the common name: as browsers do (RFC 9525 6.3).
_HOST_FLAGS = 0x4 | 0x20  # X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | _NEVER_CHECK_SUBJECT
# SSL_OP_NO_RENEGOTIATION (openssl/ssl.h), which pyOpenSSL does not name: a client could make us
# do handshakes without end.
_OPTIONS = SSL.OP_NO_COMPRESSION | 1 << 30
_PEM = re.compile(b"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)
_CACHED = 4096  # leaves; a container could ask for any number of names
_CACHED_SECONDS = 12 * 3600  # well inside a leaf's seven days
_KEY_SECONDS = 24 * 3600
_MOST_NAMES = 16  # the signer refuses more
# No client expects it (RFC 6761 6.4).
_NOBODY = ("no-name.invalid",)

# What clients say when our CA is not trusted (measured; Node says nothing at all).
_UNTRUSTED = ("unknown ca", "bad certificate", "certificate unknown")


@dataclass(frozen=True, slots=True)
class _Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    until: float


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a client without SNI has been shown, and by which server it was proved."""

    names: frozenset[str]
    certificate: Cert | None

    def holds(
        self, _theirs: SSL.Connection, found: crypto.X509, _error: int, depth: int, ok: int
    ) -> bool:
        """OpenSSL's callback: whether a later server may answer as well. Each certificate."""
        if not ok or depth:
            return bool(ok)
        certificate = Cert(found.to_cryptography())
        return certificate == self.certificate or self.names <= set(_names_in(certificate))


class Tls:
    """The TLS hooks that serving needs, in place of mitmproxy's TlsConfig."""

    def __init__(
        self,
        *,
        mint: Callable[[bool], Mint],
        roots: bytes,
        record: Record,
        stamp: Stamp,
        peers: Peers,
        trusted: Callable[[Container], None],
    ) -> None:
        self._mint = mint
        self._record = record
        self._stamp = stamp
        self._peers = peers
        self._trusted = trusted
        self._client = _client_context()
        self._server = _server_context(roots)
        # Of clients without SNI. Weak: a hook may come after the one of their end.
        self._proofs: WeakKeyDictionary[connection.Client, _Proof] = WeakKeyDictionary()
        self._leaves: OrderedDict[tuple[tuple[str, ...], bool], _Leaf] = OrderedDict()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_until = time.monotonic() + _KEY_SECONDS

    def trust(self, roots: bytes) -> None:
        """Verify servers against these roots (PEM) from the next connection on."""
        self._server = _server_context(roots)

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Hook: look at the server first, unless it could not even be reached."""
        server = data.context.server
        data.establish_server_tls_first = bool(server.tls) and not server.error

    async def tls_start_client(self, data: tls.TlsData) -> None:
        """Hook: give the client a leaf for what it asked for.

        Without one (the signer refuses or is gone) mitmproxy ends the connection:
        there is no HTTPS without a signer, and nothing is passed on unseen.
        """
        if not isinstance(data.conn, connection.Client):
            return
        server = data.context.server
        names = _names(data.conn, server)
        try:
            leaf = await self._leaf(names, block_page=bool(server.error))
        except Exception as error:  # noqa: BLE001 - whatever it is, no leaf and no connection
            self._tell(data.conn, "tls.no_leaf", f"{type(error).__name__}: {error}")
            return
        if not data.conn.sni:
            proved = None if server.error else next(iter(server.certificate_list), None)
            self._proofs[data.conn] = _Proof(frozenset(names), proved)
        ours = SSL.Connection(self._client)
        ours.use_certificate(leaf.certificate)
        ours.use_privatekey(leaf.key)
        ours.set_app_data(server.alpn)
        ours.set_accept_state()
        data.ssl_conn = ours

    def tls_start_server(self, data: tls.TlsData) -> None:
        """Hook: connect to the server as the client would, and verify it as a host program does."""
        if not isinstance(data.conn, connection.Server):
            return
        client, server = data.context.client, data.conn
        # The name the client will check. Without SNI we do not know it: then the chain is
        # verified here, the leaf repeats the server's own names, and the client checks those.
        name = client.sni or ""
        theirs = SSL.Connection(self._server)
        if name:
            server.sni = name
            _expect(theirs, name)
        elif (proof := self._proofs.get(client)) is not None:
            theirs.set_verify(SSL.VERIFY_PEER, proof.holds)
        offers = client.alpn_offers or ()
        server.alpn_offers = [b"http/1.1"] if b"http/1.1" in offers else list(offers)
        if server.alpn_offers:
            theirs.set_alpn_protos(list(server.alpn_offers))
        theirs.set_connect_state()
        data.ssl_conn = theirs

    def tls_established_client(self, data: tls.TlsData) -> None:
        """Hook: the client has accepted our leaf. One for a block page proves nothing."""
        peer = self._peers.of(data.context.client)
        if peer.container is not None and not data.context.server.error:
            self._trusted(peer.container)

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """Hook: the client did not accept our leaf, or is no TLS client at all."""
        why = text(data.conn.error or "", 300)
        kind = "tls.ca_missing" if any(sign in why for sign in _UNTRUSTED) else "tls.client_failed"
        if isinstance(data.conn, connection.Client):
            self._tell(data.conn, kind, why)

    def _tell(self, client: connection.Client, kind: str, why: str) -> None:
        peer = self._peers.of(client)
        event_id, at = self._stamp()
        who = peer.container.name or peer.container.id[:12] if peer.container else "CONTAINER"
        remedies = {
            "tls.ca_missing": f"webguard cert install {shlex.quote(text(who, 128))}",
            "tls.no_leaf": "webguard status (is the signer running?)",
        }
        self._record(
            Event(
                id=event_id,
                at=at,
                kind=kind,
                severity=Severity.LOW,
                subject=text(client.sni or peer.server, 300),
                container=peer.container,
                outcome=why,
                remedy=remedies.get(kind, ""),
            )
        )

    async def _leaf(self, names: tuple[str, ...], *, block_page: bool) -> _Leaf:
        now = time.monotonic()
        known = self._leaves.get((names, block_page))
        if known is not None and known.until > now:
            self._leaves.move_to_end((names, block_page))
            return known
        if now > self._key_until:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._key_until = now + _KEY_SECONDS
        key = self._key
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        chain = await self._mint(block_page)(names, public)
        leaf = _Leaf(
            x509.load_pem_x509_certificates(chain)[0],
            key,
            now + (600 if block_page else _CACHED_SECONDS),
        )
        self._leaves[names, block_page] = leaf
        while len(self._leaves) > _CACHED:
            self._leaves.popitem(last=False)
        return leaf


def _names(client: connection.Client, server: connection.Server) -> tuple[str, ...]:
    """Return the names our leaf must carry: the client's SNI, else what the server proved to be."""
    if client.sni:
        return (client.sni,)
    if server.certificate_list and not server.error:
        # Never the address instead: nobody verified that the server may use it, and a client
        # that asks for an address would trust our leaf where it had refused the server's.
        return tuple(_names_in(server.certificate_list[0])[:_MOST_NAMES]) or _NOBODY
    return (client.sockname[0],)


def _names_in(certificate: Cert) -> list[str]:
    found: list[str] = []
    for name in certificate.altnames:
        if isinstance(name, x509.IPAddress):
            found.append(str(name.value))
        elif isinstance(name, x509.DNSName) and "*" not in name.value:
            found.append(name.value)
    return found


def _choose_alpn(ours: SSL.Connection, offers: list[bytes]) -> bytes | object:
    """Choose what the server speaks; without a server, HTTP/1.1 if it is offered."""
    server = ours.get_app_data()
    if server:
        return server if server in offers else SSL.NO_OVERLAPPING_PROTOCOLS
    for each in (b"http/1.1", b"h2"):
        if each in offers:
            return each
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _client_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_alpn_select_callback(_choose_alpn)  # type: ignore[arg-type]  # or NO_OVERLAP
    return context


def _server_context(roots: bytes) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_verify(SSL.VERIFY_PEER)
    store = context.get_cert_store()
    if store is None:
        raise RuntimeError("OpenSSL gave no certificate store")
    # By OpenSSL and one by one: cryptography refuses old roots that OpenSSL still trusts
    # (a serial number that is not positive).
    for each in _PEM.findall(roots):
        store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, each))
    return context


def _expect(theirs: SSL.Connection, name: str) -> None:
    """Have OpenSSL verify that the server's certificate is for `name`, and send it as SNI."""
    lib = SSL._lib  # type: ignore[attr-defined]
    parameters = lib.SSL_get0_param(theirs._ssl)
    lib.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
    try:
        address = ipaddress.ip_address(name).packed
    except ValueError:
        host = name.encode("idna")
        theirs.set_tlsext_host_name(host)
        accepted = lib.X509_VERIFY_PARAM_set1_host(parameters, host, len(host))
    else:
        accepted = lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
    if accepted != 1:
        raise ValueError("OpenSSL refused the server's name")
