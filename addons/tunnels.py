"""What is not HTTP, or stops being HTTP: nothing of it is scanned, and that is said.

Where policy does not let unscanned content pass, such connections are ended:
an upgrade (a WebSocket) before its handshake is answered, other protocols before
their first byte is passed on (then `rawtcp` is off and mitmproxy reads them as
bad HTTP).

Where policy says that a connection is none of our business (`bypass`), it is not
read at all: `addons.engine` passes it on as it comes.

The ends of a connection have an interest in not being HTTP to us. mitmproxy
decides by the first bytes it gets, from either side; we let neither the server
decide by speaking first, nor the client by speaking in small pieces.
"""

import re

from mitmproxy import http, tcp
from mitmproxy.connection import Client
from mitmproxy.proxy import events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode

from addons.peers import Peer, Peers
from addons.report import answer, text, unfinished, url_of
from webguard.model import (
    Action,
    Event,
    Question,
    ScanResult,
    Severity,
    Stage,
    Unscanned,
    Verdict,
)
from webguard.ports import Decide, Record, Stamp

_REFUSED = "webguard.refused"

# The beginning of a TLS record: too little for mitmproxy to recognise it.
_UNDECIDED = (b"", b"\x16", b"\x16\x03")
# A method, or the beginning of one; servers skip empty lines before it (RFC 9112 2.2).
_PERHAPS_HTTP = re.compile(rb"[\r\n]*(?!SSH-)[A-Za-z]{0,24}([ \t]|$)")


class Tunnels:
    """Ask policy about connections that cannot be scanned, and record them."""

    def __init__(self, *, decide: Decide, record: Record, stamp: Stamp, peers: Peers) -> None:
        self._decide = decide
        self._record = record
        self._stamp = stamp
        self._peers = peers
        self._upgraded: set[str] = set()  # connections whose tunnel is recorded already
        self._bypassing: set[str] = set()

    def client_connected(self, client: Client) -> None:
        """Hook: a connection was accepted. If this fails, it is inspected."""
        peer = self._peers.of(client)
        verdict = self._on_connection(peer)
        if verdict.action is not Action.BYPASS:
            return
        event_id, at = self._stamp()
        self._record(
            Event(
                id=event_id,
                at=at,
                kind="web.unscanned",
                subject=peer.server,
                container=peer.container,
                verdict=verdict,
                outcome="tunnelled",
            )
        )
        self._bypassing.add(client.id)

    def bypasses(self, client: Client) -> bool:
        """Return whether this connection is passed on unread."""
        return client.id in self._bypassing

    def outdated(self, client: Client) -> bool:
        """Return whether it is, and policy would not have it so any more."""
        verdict = self._on_connection(self._peers.of(client))
        return self.bypasses(client) and verdict.action is not Action.BYPASS

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Hook: mitmproxy has decided what a connection speaks; it may have been too early."""
        chosen, context = nextlayer.layer, nextlayer.context
        sent = nextlayer.data_client()
        if isinstance(chosen, layers.ServerTLSLayer):
            # It could only choke on what the server sent before the handshake.
            nextlayer.events = [each for each in nextlayer.events if not _is_from(each, context)]
        elif not isinstance(chosen, layers.TCPLayer | layers.HttpLayer):
            return
        elif sent in _UNDECIDED:
            # Wait, even if the server has spoken: a TLS alert before the handshake, which
            # clients ignore, or an answer before the question would tunnel all the rest.
            context.layers.remove(chosen)
            nextlayer.layer = None
        elif isinstance(chosen, layers.TCPLayer) and _PERHAPS_HTTP.match(sent):
            context.layers.remove(chosen)
            nextlayer.layer = layers.HttpLayer(context, HTTPMode.transparent)

    def request(self, flow: http.HTTPFlow) -> None:
        """Hook: refuse an upgrade that policy would not let pass."""
        upgrade = flow.request.headers.get("upgrade", "").strip()
        if flow.response is not None or not upgrade:
            return
        flow.response = unfinished(flow)
        verdict, event = self._judge(flow, f"an upgrade to {text(upgrade, 40)} is not scanned")
        if verdict.action is Action.ALLOW:
            flow.response = None
            return
        self._record(event)
        flow.response = answer(flow, verdict, event.id)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: do not let a server invite the client to QUIC, or to a port we do not see."""
        if flow.response is not None:
            flow.response.headers.pop("alt-svc", None)

    def response(self, flow: http.HTTPFlow) -> None:
        """Hook: a server leaves HTTP, whether or not it was asked to."""
        if flow.response is None or flow.response.status_code != 101:
            return
        held, flow.response = flow.response, _last(unfinished(flow))
        upgrade = text(held.headers.get("upgrade", "?"), 40)
        verdict, event = self._judge(flow, f"an upgrade to {upgrade} is not scanned")
        if verdict.action is Action.ALLOW:
            # Nobody reads the messages of a WebSocket, and one without end would fill our
            # memory: without this, mitmproxy passes the bytes on as they come.
            flow.websocket = None
            self._upgraded.add(flow.client_conn.id)
            self._record(event)
            flow.response = held
            return
        self._record(event)
        flow.response = _last(answer(flow, verdict, event.id))

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """Hook: a connection turned out not to be HTTP, or ceased to be."""
        if flow.client_conn.id in self._upgraded:
            return
        flow.metadata[_REFUSED] = True
        verdict, event = self._judge(flow, "not HTTP")
        self._record(event)
        if verdict.action is Action.ALLOW:
            del flow.metadata[_REFUSED]

    def tcp_message(self, flow: tcp.TCPFlow) -> None:
        """Hook: a piece of a tunnel's bytes is about to be passed on."""
        if _REFUSED in flow.metadata:  # killing a TCP flow does not stop it
            flow.messages[-1].content = b""
        # mitmproxy keeps all pieces for a viewer, which we do not have.
        flow.messages.clear()

    def client_disconnected(self, client: Client) -> None:
        """Hook: a connection has ended."""
        self._upgraded.discard(client.id)
        self._bypassing.discard(client.id)

    def _on_connection(self, peer: Peer) -> Verdict:
        return self._decide(
            Question(stage=Stage.CONNECTION, subject=peer.server, container=peer.container)
        )

    def _judge(self, flow: http.HTTPFlow | tcp.TCPFlow, reason: str) -> tuple[Verdict, Event]:
        peer = self._peers.of(flow.client_conn)
        subject = url_of(flow) if isinstance(flow, http.HTTPFlow) else peer.server
        scan = ScanResult(unscanned=(Unscanned(where="connection", reason=reason),))
        verdict = self._decide(
            Question(stage=Stage.RESPONSE, subject=subject, container=peer.container, scan=scan)
        )
        event_id, at = self._stamp()
        allowed = verdict.action is Action.ALLOW
        event = Event(
            id=event_id,
            at=at,
            kind="web.unscanned" if allowed else "web.blocked",
            severity=Severity.LOW,
            subject=subject,
            container=peer.container,
            scan=scan,
            verdict=verdict,
            outcome="tunnelled" if allowed else "not delivered",
        )
        return verdict, event


def _is_from(event: events.Event, context: Context) -> bool:
    return isinstance(event, events.DataReceived) and event.connection == context.server


def _last(page: http.Response) -> http.Response:
    """Have the connection closed after this answer: the server believes that it is upgraded."""
    page.headers["Connection"] = "close"
    return page
