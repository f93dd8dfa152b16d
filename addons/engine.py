"""What we change in mitmproxy itself, all of it, in one place.

Everything here leans on private interfaces of the one version we pin. Each
change has a test that fails when a bump makes it wrong (tests/addons/test_engine.py):

- `TolerantTop`: mitmproxy closes a transparent connection whose server cannot
  be reached. We go on, so that the client is told why on a page. A connection
  that policy lets bypass is passed on as it comes: its TLS is the server's own.
- `Handler`: notes when each server was last heard, so that a deadline can tell
  slow from dead; and mitmproxy closes on a client that is still sending, which
  costs it our answer: we keep a second descriptor, for `see_off`.
- `PagedStream`: mitmproxy answers its own errors with its own page and name.
  We send the page that an addon left in the flow's metadata instead, and note
  whether it was the client who failed. A page has no body for HEAD. mitmproxy
  has one limit for all bodies; we ask `Bodies` how much is held, and what passes
  when it is more or has ended. A server whose answer we end is not listened to any
  more, and a client that has a part of it gets a reset.
- `BoundedServer`, `BoundedClient`: mitmproxy keeps a head without end, and
  requests sent ahead, in memory without a limit. The former also answers a client
  that ends its side after the request; to mitmproxy it is gone. The latter takes an
  interim answer (103 Early Hints) for what it is: mitmproxy takes it for the
  answer, and the client waits for the real one for ever.
- `TrailerlessReader`: mitmproxy crashes on trailers after a chunked body, and
  the client waits for ever. RFC 9110 6.5.1 lets us discard them.
- `_plain_refusal`: the answer to bytes that are not even a request head.
"""

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, Protocol, cast, override

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

from addons.parting import see_off

PAGE = "webguard.page"
"""Key of `flow.metadata`: the response to send when mitmproxy would send its error page."""

ABORTED = "webguard: what was sent is not the whole"
"""`Client.error` when the connection is to end with a reset, and never as if all was well."""

BY_CLIENT = "webguard.by_client"
"""Key of `flow.metadata`: it was the client who broke the exchange off, or the rules."""

# Servers accept heads of 8 to 64 KiB; some cookies and tokens are large.
LONGEST_HEAD = 256 * 1024
# Hardly any client sends requests ahead of the answer, and none sends that much.
LONGEST_AHEAD = 1024 * 1024

# 101 is not interim: it is the last thing that a server says in HTTP.
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9]{2}[ \r\n]")

REQUIRED_VERSION = "12.2.3"


type Which = Callable[[Client], bool]


class TolerantTop(layers.modes.TransparentProxy):
    """Start with the connection to the server, and go on if it fails."""

    bypasses: ClassVar[Which] = staticmethod(lambda _client: False)
    """Whether nothing of this client's connection is to be looked at."""

    @override
    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if TolerantTop.bypasses(self.context.client):
            # It has no hooks, keeps nothing, and connects to the server by itself.
            self.child_layer = layers.TCPLayer(self.context, ignore=True)
            self._handle_event = self.child_layer.handle_event  # type: ignore[method-assign]
            yield from self.child_layer.handle_event(event)
            return
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
        self._kept: socket.socket | None = None

    @override
    def close_connection(self, connection: Connection, half_close: bool = False) -> None:
        io = self.transports.get(connection)
        if connection is self.client and connection.error == ABORTED and io is not None:
            writer = cast("asyncio.StreamWriter", io.writer)
            # Closed so, the kernel sends a reset; what was not sent yet is thrown away.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            super().close_connection(connection, half_close)
            return
        still_sending = connection is self.client and ConnectionState.CAN_READ in connection.state
        if still_sending and not half_close and io is not None and self._kept is None:
            writer = cast("asyncio.StreamWriter", io.writer)
            with contextlib.suppress(OSError):  # out of descriptors: then it is a reset
                self._kept = writer.get_extra_info("socket").dup()
        super().close_connection(connection, half_close)

    async def part(self) -> None:
        """After `handle_client`: let the client read what it was sent last, if we closed."""
        if self._kept is not None:
            await see_off(self._kept)

    @override
    async def server_event(self, event: events.Event) -> None:
        if isinstance(event, events.ConnectionClosed) and event.connection is self.client:
            io = self.transports.get(self.client)
            if io is not None and cast("asyncio.StreamWriter", io.writer).is_closing():
                # A reset; mitmproxy takes it for the end of one direction.
                self.client.state = ConnectionState.CLOSED
        if isinstance(event, events.DataReceived) and isinstance(event.connection, Server):
            self._heard[event.connection] = time.monotonic()
        await super().server_event(event)

    def last_heard(self, server: Connection) -> float:
        """Return when data last came from `server` (monotonic seconds, 0.0 for never)."""
        return self._heard.get(server, 0.0)

    def drop(self, end: Connection) -> None:
        """End the connection to a client or a server; requests that wait for it fail."""
        io = self.transports.get(end)
        if io is not None and io.handler is not None:
            io.handler.cancel("dropped")


class Bodies(Protocol):
    """Who says what becomes of a body that is too large to be held."""

    def limit_of(self, flow: http.HTTPFlow) -> int:
        """Return how much of each of this flow's bodies may be held."""

    def outgrown(self, flow: http.HTTPFlow, *, request: bool, held: bytes) -> Sequence[bytes]:
        """Return what passes of `held`, and set the message's `stream`, or kill the flow."""

    def ended(self, flow: http.HTTPFlow, *, request: bool) -> Sequence[bytes]:
        """Return what passes at the end of a body that streams, or kill the flow."""


class PagedStream(http_layers.HttpStream):
    """One HTTP exchange that answers errors with our own page."""

    _head_sent = False

    bodies: ClassVar[Bodies | None] = None

    @override
    def check_body_size(self, request: bool) -> layer.CommandGenerator[bool]:
        """Do nothing but for a body that is held and has become too large: heads have hooks."""
        held = self.request_body_buf if request else self.response_body_buf
        if not held or self.bodies is None or len(held) <= self.bodies.limit_of(self.flow):
            return False
        data = bytes(held)
        held.clear()
        passing = self.bodies.outgrown(self.flow, request=request, held=data)
        if (yield from self.check_killed(True)):
            return True
        yield from self.start_request_stream() if request else self.start_response_stream()
        yield from self._send_on(passing, request=request)
        return False

    @override
    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        uploading = self.client_state == self.state_stream_request_body
        answering = bool(self.flow.response) and self.server_state in (
            self.state_wait_for_response_headers,
            self.state_consume_response_body,
            self.state_stream_response_body,
        )
        killed = yield from super().check_killed(emit_error_hook)
        if killed and (uploading or answering):
            end = RequestProtocolError(self.stream_id, "killed", ErrorCode.KILL)
            yield http_layers.SendHttp(end, self.context.server)
        return killed

    def _send_on(self, pieces: Sequence[bytes], *, request: bool) -> layer.CommandGenerator[None]:
        """Send these pieces of a body that streams, if it does."""
        if request and self.client_state == self.state_stream_request_body:
            for piece in pieces:
                data = RequestData(self.stream_id, piece)
                yield http_layers.SendHttp(data, self.context.server)
        elif not request and self.server_state == self.state_stream_response_body:
            for piece in pieces:
                yield http_layers.SendHttp(ResponseData(self.stream_id, piece), self.context.client)

    def _streams(self, event: events.Event) -> bool:
        if isinstance(event, RequestData | RequestEndOfMessage):
            return bool(self.client_state == self.state_stream_request_body)
        if isinstance(event, ResponseData | ResponseEndOfMessage):
            return bool(self.server_state == self.state_stream_response_body)
        return False

    def _inspected(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Have the end of a body that streams looked at before mitmproxy passes it on."""
        streams = self.bodies is not None and self._streams(event)
        if streams and isinstance(event, RequestEndOfMessage | ResponseEndOfMessage):
            request = isinstance(event, RequestEndOfMessage)
            rest = self.bodies.ended(self.flow, request=request) if self.bodies else ()
            if (yield from self.check_killed(True)):
                return
            yield from self._send_on(rest, request=request)
        yield from super()._handle_event(event)
        if streams and isinstance(event, RequestData | ResponseData):
            yield from self.check_killed(True)

    @override
    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, RequestProtocolError) and hasattr(self, "flow"):
            self.flow.metadata[BY_CLIENT] = True
        yield from self._with_page(self._inspected(event))

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
                    self._head_sent = command.event.response.status_code != 100
                elif isinstance(command.event, ResponseData) and self._to_head():
                    # The client would take it for the beginning of the next answer.
                    continue
                elif isinstance(command.event, ResponseProtocolError):
                    if self._head_sent and command.event.code is ErrorCode.KILL:
                        self.context.client.error = ABORTED
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
        # Of gRPC the head is all there is, and has to say so itself.
        bare = not page.raw_content
        yield http_layers.SendHttp(ResponseHeaders(number, page, end_stream=bare), client)
        if not bare and not self._to_head():
            yield http_layers.SendHttp(ResponseData(number, page.raw_content or b""), client)
        if client.alpn == b"h2":
            yield http_layers.SendHttp(ResponseEndOfMessage(number), client)

    def _to_head(self) -> bool:
        return self.flow.request.method.upper() == "HEAD"


class BoundedServer(_http1.Http1Server):
    """mitmproxy's side towards an HTTP/1 client, with bounded memory, and for who only listens."""

    _ended = False  # the client sends nothing more

    @override
    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        yield from super().read_headers(event)
        if self.state == self.read_headers and len(self.buf) > LONGEST_HEAD:
            yield commands.SendData(self.conn, _plain_refusal(431))
            yield commands.CloseConnection(self.conn)
            self.state = self.done

    @override
    def wait(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and len(self.buf) > LONGEST_AHEAD:
            yield commands.CloseConnection(self.conn)
            flood = RequestProtocolError(
                self.stream_id,
                "HTTP/1 protocol error: too much sent ahead",
                ErrorCode.GENERIC_CLIENT_ERROR,
            )
            yield ReceiveHttp(flood)
            self.state = self.done
            return
        half_closed = self.conn.state is ConnectionState.CAN_WRITE
        begun = self.response is not None and self.response.status_code != 100
        if isinstance(event, events.ConnectionClosed) and half_closed and not begun:
            # A program that left looks the same. So this is for who waits for an answer, which has
            # a deadline: streams have none, and those who leave them must not be missed.
            self._ended = True
            return
        yield from super().wait(event)

    @override
    def mark_done(
        self, *, request: bool = False, response: bool = False
    ) -> layer.CommandGenerator[None]:
        yield from super().mark_done(request=request, response=response)
        if self._ended and self.state not in (self.wait, self.done):
            # Of what was sent ahead, all is answered now that is whole.
            yield from self.state(events.ConnectionClosed(self.conn))
            self.state = self.done


class BoundedClient(_http1.Http1Client):
    """mitmproxy's side towards an HTTP/1 server, with bounded memory and patience."""

    @override
    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        while self.request and _INTERIM.match(bytes(self.buf)):
            if self.buf.maybe_extract_lines() is None:
                break
        yield from super().read_headers(event)
        waiting = self.state == self.read_headers and self.stream_id is not None
        if waiting and len(self.buf) > LONGEST_HEAD:
            yield commands.CloseConnection(self.conn)
            endless = ResponseProtocolError(
                self.stream_id or 0,
                f"its answer's head is longer than {LONGEST_HEAD} bytes",
                ErrorCode.GENERIC_SERVER_ERROR,
            )
            yield ReceiveHttp(endless)
            self.state = self.done


class TrailerlessReader(ChunkedReader):
    """h11's reader of chunked bodies, without what follows the body."""

    @override
    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        read = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(read, h11.EndOfMessage) else read


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


def install(bodies: Bodies | None = None, bypasses: Which | None = None) -> None:
    """Put ours in the place of mitmproxy's. Safe to call again, which replaces who is asked."""
    PagedStream.bodies = bodies
    TolerantTop.bypasses = staticmethod(bypasses or (lambda _client: False))
    http_layers.HttpStream = PagedStream  # type: ignore[misc]
    http_layers.Http1Server = BoundedServer  # type: ignore[attr-defined]
    http_layers.Http1Client = BoundedClient  # type: ignore[attr-defined]
    _http1.ChunkedReader = TrailerlessReader  # type: ignore[attr-defined]
    _http1.make_error_response = _plain_refusal
