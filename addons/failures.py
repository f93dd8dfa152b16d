"""Answer and record exchanges that failed, whoever's fault it was.

mitmproxy reports every failure by one hook with one sentence. This addon sorts
them, asks policy where there is a choice, records the event, and leaves the
page that `addons.engine` sends when nothing was answered yet.

The sentences may quote the server: they are compared as a whole, or at their
beginning, never searched.
"""

from dataclasses import dataclass

from mitmproxy import flow as flows
from mitmproxy import http
from mitmproxy.connection import ConnectionState

from addons.engine import BY_CLIENT, PAGE
from addons.peers import Peers
from addons.report import answer, http_facts, text, url_of
from webguard.model import (
    Event,
    Question,
    Severity,
    Stage,
)
from webguard.ports import Decide, Record, Stamp

# Sentences of mitmproxy; tests/addons/test_failures.py looks them up in its source.
UNTRUSTED = "Certificate verify failed: "
CONNECT = "mitmproxy received an HTTP CONNECT request"
OLD_TLS = "The remote server and mitmproxy cannot agree on a TLS version to use."
MALFORMED = "Received "
FROM_CLIENT = " from client, refusing to prevent request smuggling attacks. "
FROM_SERVER = " from server, refusing to prevent request smuggling attacks. "
PROTOCOL = ("HTTP/1 protocol error", "HTTP/2 protocol error")
DISCONNECTED = "Client disconnected."

DEADLINE = "webguard.deadline"
"""Key of `flow.metadata`: the seconds after which we gave up waiting for the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """One failure, sorted."""

    status: int
    reason: str
    remedy: str
    kind: str = "web.failed"
    severity: Severity = Severity.LOW


class Failures:
    """Turn mitmproxy's errors into events and pages."""

    def __init__(self, *, decide: Decide, record: Record, stamp: Stamp, peers: Peers) -> None:
        self._decide = decide
        self._record = record
        self._stamp = stamp
        self._peers = peers

    def error(self, flow: http.HTTPFlow) -> None:
        """Hook: an exchange ended without a complete response."""
        message = flow.error.msg if flow.error else "unknown error"
        if PAGE in flow.metadata or _left(flow, message):
            return  # it is told already, or there is nobody to tell
        failure = _sorted(flow, message)
        peer = self._peers.of(flow.client_conn)
        verdict = self._decide(
            Question(
                stage=Stage.UPSTREAM,
                subject=url_of(flow),
                container=peer.container,
                upstream=failure.reason,
            )
        )
        event_id, at = self._stamp()
        status = flow.response.status_code if flow.response else 0
        facts = http_facts(flow, peer, status=status, body=None)
        begun = flow.response is not None and bool(flow.response.stream)
        self._record(
            Event(
                id=event_id,
                at=at,
                kind=failure.kind,
                severity=failure.severity,
                subject=facts.url,
                container=peer.container,
                http=facts,
                verdict=verdict,
                outcome="partly delivered" if begun else "not delivered",
                remedy=failure.remedy,
            )
        )
        flow.metadata[PAGE] = answer(flow, verdict, event_id, status=failure.status)


def _left(flow: http.HTTPFlow, message: str) -> bool:
    """Return whether it was the client who went away; it knows."""
    if DEADLINE in flow.metadata or message.startswith(PROTOCOL):
        return False
    gone = flow.client_conn.state is ConnectionState.CLOSED
    return gone or BY_CLIENT in flow.metadata or message == DISCONNECTED


def _sorted(flow: http.HTTPFlow, message: str) -> _Failure:
    """Tell whose fault it is, and what to do about it."""
    return _of_client(flow, message) or _of_server(flow, message)


def _of_client(flow: http.HTTPFlow, message: str) -> _Failure | None:
    if message.startswith(CONNECT):
        return _Failure(
            status=403,
            reason="tunnels through an explicit proxy cannot be inspected",
            remedy="take the proxy's port out of web.ports",
            kind="web.blocked",
            severity=Severity.MEDIUM,
        )
    if message == flows.Error.KILLED_MESSAGE:  # by mitmproxy's DisableH2C, nobody else kills
        return _Failure(
            status=400,
            reason="HTTP/2 without TLS cannot be inspected",
            remedy="have the client use HTTP/1.1, or TLS",
            kind="web.blocked",
        )
    smuggled = message.startswith(MALFORMED) and FROM_CLIENT in message
    if smuggled or (BY_CLIENT in flow.metadata and message.startswith(PROTOCOL)):
        why = message.removeprefix(MALFORMED).rpartition(FROM_CLIENT)[0] or message
        return _Failure(
            status=400,
            reason=f"the request is not valid HTTP: {text(why, 300)}",
            remedy="mend the client",
        )
    return None


def _of_server(flow: http.HTTPFlow, message: str) -> _Failure:
    if (seconds := flow.metadata.get(DEADLINE)) is not None:
        return _Failure(
            status=504,
            reason=f"the server sent nothing for {seconds:g} seconds",
            remedy="check the server, or raise web.origin_timeout",
        )
    if message.startswith(UNTRUSTED):
        why = text(message.removeprefix(UNTRUSTED), 300)
        return _Failure(
            status=502,
            reason=f"the server's certificate cannot be trusted: {why}",
            remedy="mend the server's certificate, or add its CA to tls.extra_ca",
            kind="web.blocked",
            severity=Severity.MEDIUM,
        )
    if message.startswith(OLD_TLS):
        return _Failure(
            status=502,
            reason="the server speaks no TLS of version 1.2 or later",
            remedy="mend the server: older versions of TLS are not safe",
        )
    if message.startswith(MALFORMED) and FROM_SERVER in message:
        message = message.removeprefix(MALFORMED).rpartition(FROM_SERVER)[0]
    return _Failure(
        status=502,
        reason=f"the server failed: {text(message, 500)}",
        remedy="check that the server runs and speaks HTTP",
    )
