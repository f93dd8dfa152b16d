"""What a client sees instead of content we do not deliver. Pure.

A browser gets a page for a person, in the browser's language; a program gets
`application/problem+json` (RFC 9457), and one that speaks gRPC a status of gRPC,
because it reads nothing else. All carry the event's id, which leads to the
record. All text is somebody else's and is escaped for the medium it stands in.
"""

import html
import json
import re
from string import Template
from urllib.parse import quote

from mitmproxy import http

from addons.words import ENGLISH, LANGUAGES, language

# RFC 6838 names; a browser asks for text/html before it accepts anything.
_HTML = "text/html"

_PAGE = Template("""<!DOCTYPE html>
<html lang="$language">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 10vh auto; max-width: 40rem; padding: 0 1rem;
  color: #1d2733; background: #fff }
h1 { font-size: 1.5rem } dt { font-weight: 600 } dd { margin: 0 0 .75rem; word-break: break-word }
code { font-family: ui-monospace, monospace }
@media (prefers-color-scheme: dark) { body { color: #e6e9ee; background: #14181d } }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$lead</p>
<dl>
<dt>$address_word</dt><dd>$url</dd>
<dt>$reason_word</dt><dd lang="en">$reason</dd>
<dt>$event_word</dt><dd><code>$event</code></dd>
</dl>
<p>$mistake</p>
</main>
</body>
</html>
""")

_GRPC = re.compile(
    r"\s*(application/grpc(?:-web(?:-text)?)?(?:\+[\w.-]{1,32})?)\s*(;.*)?",
    re.IGNORECASE | re.ASCII,
)
# gRPC's codes: PERMISSION_DENIED, but UNAVAILABLE where it is the server's fault.
_DENIED = 7
_GRPC_STATUS = {502: 14, 504: 14}
_SAID = 1000  # characters of a reason in a header; servers bound theirs to 8 KiB and more
# What stands for itself in grpc-message: printable ASCII but the percent sign.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def refusal(
    *, status: int, url: str, reason: str, event_id: str, asked: http.Headers
) -> http.Response:
    """Return the answer that a client whose request had these headers understands."""
    if grpc := _GRPC.fullmatch(asked.get("content-type", "")):
        return _status(grpc[1].lower(), status, reason, event_id)
    headers = {
        "Cache-Control": "no-store",
        "X-Webguard-Event": event_id,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    if _HTML in asked.get("accept", "").lower():
        spoken = language(asked.get("accept-language", ""))
        headers |= {"Content-Type": "text/html; charset=utf-8", "Content-Language": spoken}
        body = _page(spoken, status, url, reason, event_id)
    else:
        headers["Content-Type"] = "application/problem+json"
        problem = {
            "type": "about:blank",
            "title": _lead(ENGLISH, status)[0],
            "status": status,
            "detail": reason,
            "instance": f"urn:uuid:{event_id}",
        }
        body = json.dumps(problem) + "\n"
    return http.Response.make(status, body.encode("utf-8", "backslashreplace"), headers)


def _lead(spoken: str, status: int) -> tuple[str, str]:
    leads = LANGUAGES[spoken].leads
    return leads.get(status, leads[403])


def _page(spoken: str, status: int, url: str, reason: str, event_id: str) -> str:
    words = LANGUAGES[spoken]
    title, lead = _lead(spoken, status)
    texts = {
        "language": spoken,
        "title": title,
        "lead": lead,
        "address_word": words.address,
        "url": url,
        "reason_word": words.reason,
        "reason": reason,
        "event_word": words.event,
        "event": event_id,
        "mistake": words.mistake,
    }
    return _PAGE.substitute({name: html.escape(text) for name, text in texts.items()})


def _status(kind: str, status: int, reason: str, event_id: str) -> http.Response:
    """Return the head that is all of a gRPC answer ("Trailers-Only"); it has no body."""
    said = f"{_lead(ENGLISH, status)[0]}: {reason[:_SAID]} (event {event_id})"
    return http.Response.make(
        200,
        b"",
        {
            "Content-Type": kind,
            "grpc-status": str(_GRPC_STATUS.get(status, _DENIED)),
            "grpc-message": quote(said.encode("utf-8", "backslashreplace"), safe=_PLAIN),
            "Cache-Control": "no-store",
            "X-Webguard-Event": event_id,
        },
    )
