"""Exchanges, and what becomes of them. Every driver of `webguard.inspection` runs them all.

`given` is what happens; the answers to scans are not in it: what holds `EVIL` is
found out. `done` is what the core says, as `words` writes it down. What a driver
does on the wire follows from that.
"""

from dataclasses import dataclass, field

from tests.webguard.inspection.inputs import (
    CHUNKED,
    EVIL,
    LIMIT,
    body,
    chunked,
    end,
    get,
    ok,
    post,
)
from webguard.inspection.values import Failed, Input, ResponseHead, Side, Upgraded
from webguard.model import Action
from webguard.policy.decide import Policy
from webguard.policy.urls import Kind, UrlList

REQUEST, RESPONSE = Side.REQUEST, Side.RESPONSE
LARGE = b"x" * (3 * LIMIT)
OPEN = Policy()
STRICT = Policy(unscanned=Action.BLOCK, on_failure="closed")
LISTED = Policy(lists=(UrlList(name="bad", kind=Kind.BLOCKED, entries=("good.test",)),))


@dataclass(frozen=True)
class Case:
    name: str
    given: tuple[Input, ...]
    done: tuple[str, ...]
    policy: Policy = field(default=OPEN)
    wire: bool = True  # whether an end can make this happen from outside


ASKED = ("hold request", "request head", "request end")
GET = (get(), end(REQUEST))


def _answer(*given: Input) -> tuple[Input, ...]:
    return (*GET, *given, end(RESPONSE))


OK = (ok(b"ok"), body(RESPONSE, b"ok"), end(RESPONSE))
EVENTS = ResponseHead(status=200, fields=(*CHUNKED, ("Content-Type", "text/event-stream")))

CASES = (
    Case(
        "a clean page is held whole, then delivered",
        _answer(ok(b"fine"), body(RESPONSE, b"fine")),
        (
            *ASKED,
            "hold response",
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response body 4",
            "response end",
        ),
    ),
    Case(
        "an answer without a body is scanned too",
        _answer(ok(b"")),
        (
            *ASKED,
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response end",
        ),
    ),
    Case(
        "malware is replaced",
        _answer(ok(EVIL), body(RESPONSE, EVIL)),
        (
            *ASKED,
            "hold response",
            "hold response",
            "scan response",
            "tell response block: test:Evil",
            "replace 403",
        ),
    ),
    Case(
        "malware in chunks is replaced",
        _answer(chunked(), body(RESPONSE, EVIL[:5]), body(RESPONSE, EVIL[5:])),
        (
            *ASKED,
            "hold response",
            "hold response",
            "hold response",
            "scan response",
            "tell response block: test:Evil",
            "replace 403",
        ),
    ),
    Case(
        "a large body of known length streams, and that is told",
        _answer(ok(LARGE), body(RESPONSE, LARGE)),
        (
            *ASKED,
            "tell response allow: web.unscanned",
            "response head",
            "scan response",
            f"response body {len(LARGE)}",
            "hold response",
            "response end",
        ),
    ),
    Case(
        "a large body of known length is refused where policy is strict",
        _answer(ok(LARGE), body(RESPONSE, LARGE)),
        (*ASKED, "tell response block: web.unscanned", "replace 403"),
        STRICT,
    ),
    Case(
        "a body that turns out to be large streams from there",
        _answer(chunked(), body(RESPONSE, LARGE[:LIMIT]), body(RESPONSE, LARGE[LIMIT:])),
        (
            *ASKED,
            "hold response",
            "hold response",
            "tell response allow: web.unscanned",
            "scan response",
            "response head",
            f"response body {len(LARGE)}",
            "hold response",
            "response end",
        ),
    ),
    Case(
        "a body that turns out to be large is refused where policy is strict",
        _answer(chunked(), body(RESPONSE, LARGE[:LIMIT]), body(RESPONSE, LARGE[LIMIT:])),
        (
            *ASKED,
            "hold response",
            "hold response",
            "tell response block: web.unscanned",
            "replace 403",
        ),
        STRICT,
    ),
    Case(
        "an event stream is not held",
        _answer(EVENTS, body(RESPONSE, b"data: 1\n\n")),
        (
            *ASKED,
            "tell response allow: web.unscanned",
            "response head",
            "scan response",
            "response body 9",
            "hold response",
            "response end",
        ),
    ),
    Case(
        "malware in an event stream ends it with a reset",
        _answer(EVENTS, body(RESPONSE, EVIL[:5]), body(RESPONSE, EVIL[5:]), body(RESPONSE, b"z")),
        (
            *ASKED,
            "tell response allow: web.unscanned",
            "response head",
            "scan response",
            "response body 5",
            "hold response",
            "scan response",
            "tell response block: test:Evil",
            "abort",
        ),
    ),
    Case(
        "malware in what was held of a large body is replaced",
        _answer(chunked(), body(RESPONSE, EVIL + LARGE)),
        (
            *ASKED,
            "hold response",
            "tell response allow: web.unscanned",
            "scan response",
            "tell response block: test:Evil",
            "replace 403",
        ),
    ),
    Case(
        "an upload of malware that streams is not ended at the server",
        (post(LARGE + EVIL), body(REQUEST, LARGE + EVIL), end(REQUEST)),
        (
            "tell request allow: web.unscanned",
            "request head",
            "scan request",
            "tell request block: test:Evil",
            "replace 403",
        ),
        wire=False,  # where a driver's pieces end is the network's choice
    ),
    Case(
        "an event stream that ends is held where policy is strict",
        _answer(EVENTS, body(RESPONSE, b"data: 1\n\n")),
        (
            *ASKED,
            "hold response",
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response body 9",
            "response end",
        ),
        STRICT,
    ),
    Case(
        "a part of something is not called clean",
        _answer(
            ResponseHead(
                status=206, fields=(("Content-Length", "4"), ("Content-Range", "bytes 4-7/9"))
            ),
            body(RESPONSE, b"part"),
        ),
        (
            *ASKED,
            "hold response",
            "hold response",
            "scan response",
            "tell response allow: web.unscanned",
            "response head",
            "response body 4",
            "response end",
        ),
    ),
    Case(
        "a part that is the whole is",
        _answer(
            ResponseHead(
                status=206, fields=(("Content-Length", "4"), ("Content-Range", "bytes 0-3/4"))
            ),
            body(RESPONSE, b"part"),
        ),
        (
            *ASKED,
            "hold response",
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response body 4",
            "response end",
        ),
    ),
    Case(
        "a clean upload is told by its answer",
        (
            post(b"mine"),
            body(REQUEST, b"mine"),
            end(REQUEST),
            ok(b"thanks"),
            body(RESPONSE, b"thanks"),
            end(RESPONSE),
        ),
        (
            "hold request",
            "hold request",
            "scan request",
            "request head",
            "request body 4",
            "request end",
            "hold response",
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response body 6",
            "response end",
        ),
    ),
    Case(
        "an upload of malware does not reach the server",
        (post(EVIL), body(REQUEST, EVIL), end(REQUEST)),
        (
            "hold request",
            "hold request",
            "scan request",
            "tell request block: test:Evil",
            "replace 403",
        ),
    ),
    Case(
        "a large upload streams, and that is told",
        (post(LARGE), body(REQUEST, LARGE), end(REQUEST), *OK),
        (
            "tell request allow: web.unscanned",
            "request head",
            "scan request",
            f"request body {len(LARGE)}",
            "hold request",
            "request end",
            "hold response",
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response body 2",
            "response end",
        ),
    ),
    Case(
        "a large upload is refused at its head where policy is strict",
        (post(LARGE), body(REQUEST, LARGE), end(REQUEST)),
        ("tell request block: web.unscanned", "replace 413"),
        STRICT,
    ),
    Case(
        "an address in a list is not asked for",
        GET,
        ("hold request", "tell request block: list:bad", "replace 403"),
        LISTED,
    ),
    Case(
        "nothing is sent to an address in a list",
        (post(b"mine"), body(REQUEST, b"mine"), end(REQUEST)),
        ("tell request block: list:bad", "replace 403"),
        LISTED,
    ),
    Case(
        "what follows a 101 is no HTTP",
        (*GET, ResponseHead(status=101), Upgraded(), body(RESPONSE, b"frame")),
        (*ASKED, "hold response", "bypass"),
        wire=False,
    ),
    Case(
        "only a 101 ends HTTP",
        (*GET, ok(b""), Upgraded(), end(RESPONSE)),
        (
            *ASKED,
            "hold response",
            "scan response",
            "tell response allow: default",
            "response head",
            "response end",
        ),
        wire=False,
    ),
    Case(
        "what broke off is not delivered",
        (*GET, ok(b"four"), body(RESPONSE, b"fo"), Failed(), body(RESPONSE, b"ur"), end(RESPONSE)),
        (*ASKED, "hold response", "hold response"),
        wire=False,
    ),
    Case(
        "an answer to nothing is ignored",
        (ok(b"four"), body(RESPONSE, b"four"), end(RESPONSE)),
        (),
        wire=False,
    ),
)
