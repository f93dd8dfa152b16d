"""What we change in mitmproxy itself, all of it, in one place.

Everything here leans on private interfaces of the one version we pin. Each
change has a test that fails when a bump makes it wrong (tests/addons/test_engine.py):

- `TolerantTop`: mitmproxy closes a transparent connection whose server cannot
  be reached. We go on, so that the client is told why on a page.
- `Handler`: notes when each server was last heard, so that a deadline can tell
  slow from dead.
- `PagedStream`: mitmproxy answers its own errors with its own page and name.
  We send the page that an addon left in the flow's metadata instead.
- `_plain_refusal`: the answer to bytes that are not even a request head.
"""

import time
from collections.abc import Generator
from typing import Any, override

from mitmproxy import http
from mitmproxy.connection import Connection, Server
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import (
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

PAGE = "webguard.page"
"""Key of `flow.metadata`: the response to send when mitmproxy would send its error page."""

REQUIRED_VERSION = "12.2.3"


class TolerantTop(layers.modes.TransparentProxy):
    """Start with the connection to the server, and go on if it fails."""

    @override
    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        child = layer.NextLayer(self.context)
        self.child_layer = child
        # A failure is left in context.server.error; the HTTP layer answers with it.
        yield commands.OpenConnection(self.context.server)
        self._handle_event = child.handle_event  # type: ignore[method-assign]
        yield from child.handle_event(events.Start())


class Handler(ProxyConnectionHandler):
    """mitmproxy's handler of one client connection, with a memory for silence."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - mitmproxy's, untyped
        super().__init__(*args)  # type: ignore[no-untyped-call]
        self._heard: dict[Connection, float] = {}

    @override
    async def server_event(self, event: events.Event) -> None:
        if isinstance(event, events.DataReceived) and isinstance(event.connection, Server):
            self._heard[event.connection] = time.monotonic()
        await super().server_event(event)

    def last_heard(self, server: Connection) -> float:
        """Return when data last came from `server` (monotonic seconds, 0.0 for never)."""
        return self._heard.get(server, 0.0)

    def drop_server(self, server: Connection) -> None:
        """End the connection to a server; requests that wait for it fail."""
        io = self.transports.get(server)
        if io is not None and io.handler is not None:
            io.handler.cancel("deadline")


class PagedStream(http_layers.HttpStream):
    """One HTTP exchange that answers errors with our own page."""

    _head_sent = False

    @override
    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from self._with_page(super()._handle_event(event))

    def _with_page(
        self, inner: Generator[commands.Command, Any, None]
    ) -> layer.CommandGenerator[None]:
        """Pass commands on, replacing an error for the client by the page left for it."""
        reply: Any = None
        while True:
            try:
                command = inner.send(reply)
            except StopIteration:
                return
            reply = None
            if isinstance(command, http_layers.SendHttp) and command.connection is (
                self.context.client
            ):
                if isinstance(command.event, ResponseHeaders):
                    # An interim 100 is no answer; what follows it may still be an error.
                    self._head_sent = command.event.response.status_code >= 200
                elif isinstance(command.event, ResponseProtocolError):
                    yield from self._send_page()
            reply = yield command

    def _send_page(self) -> layer.CommandGenerator[None]:
        """Send the page left by an addon, if there is one and no answer was begun.

        The error itself follows: HTTP/1 then closes the connection (the page has
        its length), HTTP/2 finds the stream ended and ignores it.
        """
        page = self.flow.metadata.pop(PAGE, None) if hasattr(self, "flow") else None
        if self._head_sent or not isinstance(page, http.Response):
            return
        self._head_sent = True
        client, number = self.context.client, self.stream_id
        body = b"" if self.flow.request.method == "HEAD" else page.raw_content or b""
        yield http_layers.SendHttp(ResponseHeaders(number, page), client)
        yield http_layers.SendHttp(ResponseData(number, body), client)
        if client.alpn == b"h2":
            yield http_layers.SendHttp(ResponseEndOfMessage(number), client)


def _plain_refusal(status_code: int, message: str = "") -> bytes:
    """Refuse in the barest form, with nothing of the message: it may quote the attacker."""
    page = http.Response.make(
        status_code,
        "Webguard could not understand this request.\n",
        {
            "Content-Type": "text/plain; charset=utf-8",
            "Connection": "close",
            "Cache-Control": "no-store",
        },
    )
    return bytes(http1.assemble_response(page))


def install() -> None:
    """Put our stream and our refusal in the place of mitmproxy's. Safe to call twice."""
    http_layers.HttpStream = PagedStream  # type: ignore[misc]
    _http1.make_error_response = _plain_refusal
