"""What a client sees instead of content we do not deliver. Pure.

A browser gets a page for a person; a program gets `application/problem+json`
(RFC 9457). Both carry the event's id, which leads to the record. All text is
somebody else's and is escaped for the medium it stands in.
"""

import html
import json
from string import Template

from mitmproxy import http

# RFC 6838 names; a browser asks for text/html before it accepts anything.
_HTML = "text/html"

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
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
<dt>Address</dt><dd>$url</dd>
<dt>Reason</dt><dd>$reason</dd>
<dt>Event</dt><dd><code>$event</code></dd>
</dl>
<p>If you think this is a mistake, give the event's number to the administrator of this machine.</p>
</main>
</body>
</html>
""")

_LEADS = {
    400: ("Not understood", "Webguard could not understand this request."),
    403: ("Blocked by Webguard", "Webguard did not deliver this content."),
    413: ("Too large", "This is larger than Webguard may pass on without looking at it."),
    502: ("No trustworthy answer", "The server did not give an answer that Webguard can pass on."),
    504: ("No answer in time", "The server took too long to answer."),
}


def refusal(*, status: int, url: str, reason: str, event_id: str, accept: str) -> http.Response:
    """Return the answer for a client that sent this Accept header ("" for none)."""
    title, lead = _LEADS.get(status, _LEADS[403])
    if _HTML in accept.lower():
        kind = "text/html; charset=utf-8"
        body = _PAGE.substitute(
            title=html.escape(title),
            lead=html.escape(lead),
            url=html.escape(url),
            reason=html.escape(reason),
            event=html.escape(event_id),
        )
    else:
        kind = "application/problem+json"
        problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": reason,
            "instance": f"urn:uuid:{event_id}",
        }
        body = json.dumps(problem) + "\n"
    return http.Response.make(
        status,
        body.encode("utf-8", "backslashreplace"),
        {
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "X-Webguard-Event": event_id,
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        },
    )
