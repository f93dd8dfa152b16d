"""Turn a flow into an event. Pure but for the stamp it is given.

Everything a client or a server wrote is cut to a bound and made valid text
here, so that no later reader (terminal, JSON, database) has to think of it.
"""

from mitmproxy import http

from addons.page import refusal
from addons.peers import Peer
from webguard.model import Action, Event, Http, ScanResult, Severity, Verdict
from webguard.ports import Stamp

# RFC 9110 4.1 asks for at least 8,000 octets of URI; longer ones are cut in the record only.
_LONGEST = 8192


def text(untrusted: str, longest: int = _LONGEST) -> str:
    """Return `untrusted` as valid, bounded text."""
    clean = untrusted.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def url_of(flow: http.HTTPFlow) -> str:
    """Return the address the client asked for, with the host name it used."""
    return text(flow.request.pretty_url)


def answer(
    flow: http.HTTPFlow, verdict: Verdict, event_id: str, *, status: int = 403
) -> http.Response:
    """Return the refusal that this flow's client will understand."""
    return refusal(
        status=status,
        url=url_of(flow),
        reason=verdict.reason,
        event_id=event_id,
        accept=flow.request.headers.get("accept", ""),
    )


def http_facts(flow: http.HTTPFlow, peer: Peer, *, status: int, body: bytes | None) -> Http:
    """Return the HTTP facts; `status` and `body` are the origin's, not our page's."""
    return Http(
        method=text(flow.request.method, 64),
        url=url_of(flow),
        version=text(flow.request.http_version, 16),
        status=status,
        client=peer.client,
        server=peer.server,
        request_bytes=len(flow.request.raw_content or b""),
        response_bytes=len(body or b""),
    )


def web_event(
    *, stamp: Stamp, peer: Peer, facts: Http, scan: ScanResult | None, verdict: Verdict
) -> Event:
    """Return the event of a verdict on one exchange."""
    event_id, at = stamp()
    blocked = verdict.action is Action.BLOCK
    found = scan is not None and bool(scan.detections)
    unseen = scan is not None and bool(scan.unscanned)
    if blocked:
        kind = "web.blocked"
    elif unseen:
        kind = "web.unscanned"
    else:
        kind = "web.passed"
    return Event(
        id=event_id,
        at=at,
        kind=kind,
        severity=_severity(blocked=blocked, found=found, unseen=unseen),
        subject=facts.url,
        container=peer.container,
        http=facts,
        scan=scan,
        verdict=verdict,
        outcome="not delivered" if blocked else "delivered",
    )


def _severity(*, blocked: bool, found: bool, unseen: bool) -> Severity:
    if found:
        return Severity.HIGH
    if blocked:
        return Severity.MEDIUM
    return Severity.LOW if unseen else Severity.INFORMATIONAL
