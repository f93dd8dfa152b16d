"""Give up on servers that do not answer, so that no client waits for ever.

Three clocks: one for the TCP connection, one for the TLS handshake as a whole
(a server may trickle), and one that runs from the end of the request and starts
again whenever the server sends something. The last hears connections, not
exchanges: of HTTP/2, one that is silent lives as long as another one talks.
"""

import asyncio
import time
from collections.abc import Callable

from mitmproxy import http, tls
from mitmproxy.connection import Connection, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from addons.engine import Handler
from addons.failures import DEADLINE

# A SYN is repeated after 1, 3 and 7 seconds; who has not answered by then rarely will.
CONNECT = 15.0

type Handlers = Callable[[str], Handler | None]


class Deadlines:
    """Abort connections to servers that stay silent for `silence` seconds."""

    def __init__(self, *, silence: float, handler_of: Handlers) -> None:
        self.silence = silence
        self._handler_of = handler_of
        self._connecting: dict[Server, asyncio.TimerHandle] = {}
        self._shaking_hands: dict[Connection, asyncio.TimerHandle] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Hook: a connection to a server is about to be opened, by the task we are in."""
        task = asyncio.current_task()
        if task is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(CONNECT, self._unreachable, data.server, task)
            self._connecting[data.server] = timer

    def server_connected(self, data: ServerConnectionHookData) -> None:
        """Hook: the connection is open."""
        self._stop(self._connecting.pop(data.server, None))

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        """Hook: the connection could not be opened."""
        self._stop(self._connecting.pop(data.server, None))

    def tls_start_server(self, data: tls.TlsData) -> None:
        """Hook: a handshake with a server begins."""
        patience = min(CONNECT, self.silence)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(patience, self._speechless, data.context.client.id, data.conn)
        self._shaking_hands[data.conn] = timer

    def tls_established_server(self, data: tls.TlsData) -> None:
        """Hook: the handshake is done."""
        self._stop(self._shaking_hands.pop(data.conn, None))

    def tls_failed_server(self, data: tls.TlsData) -> None:
        """Hook: the handshake failed; if it was us, say so in place of "connection closed"."""
        timer = self._shaking_hands.pop(data.conn, None)
        if timer is not None and timer.when() <= asyncio.get_running_loop().time():
            data.conn.error = "no TLS handshake in time"
        self._stop(timer)

    def request(self, flow: http.HTTPFlow) -> None:
        """Hook: the request is complete; from now on it is the server's turn."""
        if flow.response is None:
            self._wait(flow, self.silence)

    def response(self, flow: http.HTTPFlow) -> None:
        """Hook: the response is complete."""
        self._stop(self._waiting.pop(flow.id, None))

    def error(self, flow: http.HTTPFlow) -> None:
        """Hook: the exchange failed."""
        self._stop(self._waiting.pop(flow.id, None))

    def _unreachable(self, server: Server, task: asyncio.Task[object]) -> None:
        self._connecting.pop(server, None)  # no hook follows if it was still queued
        task.cancel()

    def _speechless(self, client_id: str, server: Connection) -> None:
        if (handler := self._handler_of(client_id)) is None:
            del self._shaking_hands[server]  # no hook follows
        else:
            handler.drop(server)

    def _wait(self, flow: http.HTTPFlow, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        since = time.monotonic()
        self._waiting[flow.id] = loop.call_later(seconds, self._expired, flow, since)

    def _expired(self, flow: http.HTTPFlow, since: float) -> None:
        del self._waiting[flow.id]
        handler = self._handler_of(flow.client_conn.id)
        streamed = flow.response is not None and bool(flow.response.stream)
        if handler is None or streamed:
            return
        silent = time.monotonic() - max(handler.last_heard(flow.server_conn), since)
        if silent < self.silence - 0.05:
            self._wait(flow, self.silence - silent)
            return
        flow.metadata[DEADLINE] = self.silence
        handler.drop(flow.server_conn)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
