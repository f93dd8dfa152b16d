"""Let a worker's connections end without breaking any.

While it drains, an HTTP/1 answer says that it is the last one on its
connection, so that the client opens the next to our successor. Connections on
which nothing is under way are ended after a moment in which a request that was
sent already can still arrive, or a handshake can end.

Whenever we are the one who closes, the client must be able to read what we said
before: see `see_off`.
"""

import asyncio
import contextlib
import socket
import time

from mitmproxy import connection, http

# What a client may need to send a request that it has begun, and one that it has not.
_MOMENT = 1.0
_HANDSHAKE = 5.0

# A client that was answered stops sending; who goes on is cut off.
_SEE_OFF = 2.0  # seconds
_HEARD_OUT = 16 * 1024 * 1024  # bytes


class Parting:
    """Knows what is under way on each connection."""

    def __init__(self) -> None:
        self.draining = False
        self._under_way: dict[str, int] = {}
        self._idle_since: dict[str, float] = {}
        self._asked: set[str] = set()

    def idle(self, client_id: str) -> bool:
        """Return whether a connection can be ended: nothing has been under way for a while."""
        if self._under_way.get(client_id):
            return False
        now = time.monotonic()
        since = self._idle_since.setdefault(client_id, now)
        return now - since > (_MOMENT if client_id in self._asked else _HANDSHAKE)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: an exchange begins."""
        key = flow.client_conn.id
        self._asked.add(key)
        self._under_way[key] = self._under_way.get(key, 0) + 1

    def response(self, flow: http.HTTPFlow) -> None:
        """Hook: an exchange is about to end with this response."""
        if self.draining and flow.response is not None and not flow.request.is_http2:
            flow.response.headers["Connection"] = "close"
        self._ended(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """Hook: an exchange has failed."""
        self._ended(flow)

    def client_disconnected(self, client: connection.Client) -> None:
        """Hook: a connection has ended."""
        self._under_way.pop(client.id, None)
        self._idle_since.pop(client.id, None)
        self._asked.discard(client.id)

    def _ended(self, flow: http.HTTPFlow) -> None:
        key = flow.client_conn.id
        left = self._under_way.get(key, 0) - 1
        if left > 0:
            self._under_way[key] = left
            return
        self._under_way.pop(key, None)
        self._idle_since[key] = time.monotonic()


async def see_off(client: socket.socket) -> None:
    """Close a connection whose client may still be sending, so that it gets our last words.

    Closing with unread bytes makes the kernel send a reset, which overtakes what the
    client has not read yet: the page that says why an upload was refused (RFC 9112 9.6).
    """
    loop = asyncio.get_running_loop()
    heard = 0
    client.setblocking(False)
    with client, contextlib.suppress(OSError, TimeoutError):
        client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_SEE_OFF):
            while heard < _HEARD_OUT and (more := await loop.sock_recv(client, 65536)):
                heard += len(more)
