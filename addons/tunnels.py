"""What is not HTTP, or stops being HTTP: nothing of it is scanned, and that is said.

Where policy does not let unscanned content pass, such connections are ended:
a WebSocket before its handshake is answered, other protocols before their first
byte is passed on (then `rawtcp` is off and mitmproxy reads them as bad HTTP).
"""

from mitmproxy import http, tcp

from addons.peers import Peers
from addons.report import answer, text, url_of
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


class Tunnels:
    """Ask policy about connections that cannot be scanned, and record them."""

    def __init__(self, *, decide: Decide, record: Record, stamp: Stamp, peers: Peers) -> None:
        self._decide = decide
        self._record = record
        self._stamp = stamp
        self._peers = peers

    def request(self, flow: http.HTTPFlow) -> None:
        """Hook: refuse an upgrade that policy would not let pass."""
        upgrade = flow.request.headers.get("upgrade", "").strip().lower()
        if flow.response is not None or not upgrade or upgrade == "h2c":
            return
        reason = f"an upgrade to {text(upgrade, 40)} is not scanned"
        verdict, event = self._judge(flow, reason)
        if verdict.action is not Action.ALLOW:
            self._record(event)
            flow.response = answer(flow, verdict, event.id)

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        """Hook: a WebSocket is open."""
        _verdict, event = self._judge(flow, "WebSocket messages")
        self._record(event)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Hook: a client asks an explicit proxy for a tunnel, which we do not look into yet."""
        verdict = self._decide(
            Question(
                stage=Stage.UPSTREAM,
                subject=text(flow.request.pretty_host, 300),
                container=self._peers.of(flow.client_conn).container,
                upstream="tunnels through an explicit proxy cannot be inspected",
            )
        )
        event_id, at = self._stamp()
        peer = self._peers.of(flow.client_conn)
        self._record(
            Event(
                id=event_id,
                at=at,
                kind="web.blocked",
                severity=Severity.MEDIUM,
                subject=text(flow.request.pretty_host, 300),
                container=peer.container,
                verdict=verdict,
                outcome="not delivered",
                remedy="take the proxy's port out of web.ports",
            )
        )
        flow.response = answer(flow, verdict, event_id)

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """Hook: a connection on a web port turned out not to be HTTP."""
        verdict, event = self._judge(flow, "not HTTP")
        self._record(event)
        if verdict.action is not Action.ALLOW and flow.killable:
            flow.kill()

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
