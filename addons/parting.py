"""Let a worker's connections end without breaking any.

While it drains, an HTTP/1 answer says that it is the last one on its
connection, so that the client opens the next to our successor. Connections on
which nothing is under way are ended after a moment in which a request that was
sent already can still arrive.
"""

import time

from mitmproxy import connection, http


class Parting:
    """Knows what is under way on each connection."""

    def __init__(self) -> None:
        self.draining = False
        self._under_way: dict[str, int] = {}
        self._idle_since: dict[str, float] = {}

    def idle(self, client_id: str) -> float:
        """Return for how many seconds nothing has been under way on a connection."""
        if self._under_way.get(client_id):
            return 0.0
        now = time.monotonic()
        return now - self._idle_since.setdefault(client_id, now)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: an exchange begins."""
        key = flow.client_conn.id
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

    def _ended(self, flow: http.HTTPFlow) -> None:
        key = flow.client_conn.id
        left = self._under_way.get(key, 0) - 1
        if left > 0:
            self._under_way[key] = left
            return
        self._under_way.pop(key, None)
        self._idle_since[key] = time.monotonic()
