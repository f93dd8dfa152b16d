"""Turn a flow into an event. Pure but for the stamp it is given.

Everything a client or a server wrote is cut to a bound and made visible text
here, so that no later reader (terminal, JSON, database) has to think of it.
"""

import re

from mitmproxy import http

from addons.page import refusal
from addons.peers import Peer
from webguard.model import Action, Event, Http, ScanResult, Severity, Verdict
from webguard.ports import Stamp

# RFC 9110 4.1 asks for at least 8,000 octets of URI; longer ones are cut in the record only.
_LONGEST = 8192

# What stands before an address's host (RFC 3986 3.2.1): often a password, never a place.
_USER = re.compile(r"^([^/?#]*://)[^/?#]*@")
_OURS = "webguard.answer"
_UNFINISHED = "webguard.unfinished"
_NIL = "00000000-0000-0000-0000-000000000000"


def text(untrusted: str, longest: int = _LONGEST) -> str:
    """Return `untrusted` bounded, and with everything escaped that a person would not see.

    That is what moves a terminal's cursor, turns the direction of writing, or is
    no character at all.
    """
    clean = untrusted[: longest + 1]
    if not clean.isprintable():
        clean = "".join(each if each.isprintable() else _escaped(each) for each in clean)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def url_of(flow: http.HTTPFlow) -> str:
    """Return the address the client asked for, with the host name it used and no password."""
    return text(_USER.sub(r"\1", flow.request.pretty_url))


def answer(
    flow: http.HTTPFlow, verdict: Verdict, event_id: str, *, status: int = 403
) -> http.Response:
    """Return the refusal that this flow's client will understand."""
    page = refusal(
        status=status,
        url=url_of(flow),
        reason=text(verdict.reason),
        event_id=event_id,
        asked=flow.request.headers,
    )
    flow.metadata[_OURS] = page
    return page


def unfinished(flow: http.HTTPFlow) -> http.Response:
    """Return what is sent when we do not come to a verdict; one page for all of an exchange.

    It is put in place before each look, and nearly always taken back.
    """
    page = flow.metadata.get(_UNFINISHED)
    if not isinstance(page, http.Response):
        page = refusal(
            status=403,
            url="",
            reason="inspection did not finish",
            event_id=_NIL,
            asked=flow.request.headers,
        )
        flow.metadata[_UNFINISHED] = page
    flow.metadata[_OURS] = page
    return page


def answered(flow: http.HTTPFlow) -> bool:
    """Return whether the response is a page of ours. No server can forge one."""
    return flow.response is not None and flow.response is flow.metadata.get(_OURS)


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
    *,
    stamp: Stamp,
    peer: Peer,
    facts: Http,
    scan: ScanResult | None,
    verdict: Verdict,
    remedy: str = "",
) -> Event:
    """Return the event of a verdict on one exchange."""
    event_id, at = stamp()
    blocked = verdict.action is not Action.ALLOW
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
        remedy=remedy,
    )


def _severity(*, blocked: bool, found: bool, unseen: bool) -> Severity:
    if found:
        return Severity.HIGH
    if blocked:
        return Severity.MEDIUM
    return Severity.LOW if unseen else Severity.INFORMATIONAL
