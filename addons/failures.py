"""Answer and record exchanges that failed, whoever's fault it was.

mitmproxy reports every failure by one hook with one sentence. This addon sorts
them, asks policy where there is a choice, records the event, and leaves the
page that `addons.engine` sends when nothing was answered yet.
"""

from mitmproxy import http

from addons.engine import PAGE
from addons.peers import Peers
from addons.report import answer, http_facts, text, url_of
from webguard.model import (
    Event,
    Question,
    ScanResult,
    Severity,
    Stage,
    Unscanned,
)
from webguard.ports import Decide, Record, Stamp

UNTRUSTED = "Certificate verify failed"
"""How mitmproxy begins its sentence about a server certificate it could not verify."""

TOO_LARGE = "body_size_limit"
DEADLINE = "webguard.deadline"
"""Key of `flow.metadata`: the seconds after which we gave up waiting for the server."""

_GONE = ("client disconnected", "killed", "Client disconnected", "Connection killed")


class Failures:
    """Turn mitmproxy's errors into events and pages."""

    def __init__(self, *, decide: Decide, record: Record, stamp: Stamp, peers: Peers) -> None:
        self._decide = decide
        self._record = record
        self._stamp = stamp
        self._peers = peers

    def error(self, flow: http.HTTPFlow) -> None:
        """Hook: an exchange ended without a complete response."""
        message = text(flow.error.msg, 500) if flow.error else "unknown error"
        if message.startswith(_GONE) and DEADLINE not in flow.metadata:
            return  # the client went away; it knows
        status, remedy, question = self._sort(flow, message)
        verdict = self._decide(question)
        peer = self._peers.of(flow.client_conn)
        event_id, at = self._stamp()
        facts = http_facts(
            flow,
            peer,
            status=flow.response.status_code if flow.response else 0,
            body=None,
        )
        self._record(
            Event(
                id=event_id,
                at=at,
                kind="web.blocked" if question.scan or UNTRUSTED in message else "web.failed",
                severity=Severity.MEDIUM if UNTRUSTED in message else Severity.LOW,
                subject=facts.url,
                container=peer.container,
                http=facts,
                scan=question.scan,
                verdict=verdict,
                outcome="not delivered",
                remedy=remedy,
            )
        )
        flow.metadata[PAGE] = answer(flow, verdict, event_id, status=status)

    def _sort(self, flow: http.HTTPFlow, message: str) -> tuple[int, str, Question]:
        """Return the status of the page, the remedy, and what to ask policy."""
        subject = url_of(flow)
        container = self._peers.of(flow.client_conn).container
        if TOO_LARGE in message:
            unseen = Unscanned(where="body", reason="larger than web.max_body")
            return (
                413 if message.startswith("Request") else 403,
                "raise web.max_body, or set web.unscanned: allow",
                Question(
                    stage=Stage.RESPONSE,
                    subject=subject,
                    container=container,
                    scan=ScanResult(unscanned=(unseen,)),
                ),
            )
        status, reason, remedy = _upstream(flow, message)
        return (
            status,
            remedy,
            Question(stage=Stage.UPSTREAM, subject=subject, container=container, upstream=reason),
        )


def _upstream(flow: http.HTTPFlow, message: str) -> tuple[int, str, str]:
    """Return status, reason and remedy of a failure on the server's side."""
    if (seconds := flow.metadata.get(DEADLINE)) is not None:
        return (
            504,
            f"the server sent nothing for {seconds:g} seconds",
            "check the server, or raise web.origin_timeout",
        )
    if UNTRUSTED in message:
        why = message.partition(UNTRUSTED + ":")[2].strip() or message
        return (
            502,
            f"the server's certificate cannot be trusted: {why}",
            "mend the server's certificate, or add its CA to tls.extra_ca",
        )
    return 502, f"the server failed: {message}", "check that the server runs and speaks HTTP"
