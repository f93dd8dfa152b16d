"""Who is at the other end of each intercepted connection.

Filled in once when a connection is accepted, while its socket is certainly
alive, and read by every other addon. "Unknown" is a value: `container` is None.
"""

from dataclasses import dataclass

from mitmproxy import connection

from webguard.model import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One intercepted connection's ends and owner."""

    client: str  # address and port of the asking socket
    server: str  # where it wanted to go
    cgroup: int | None = None
    container: Container | None = None


UNKNOWN = Peer(client="", server="")


class Peers:
    """The connections that are open now, by mitmproxy's connection id. Bounded by them."""

    def __init__(self) -> None:
        self._open: dict[str, Peer] = {}

    def add(self, client_id: str, peer: Peer) -> None:
        """Remember who opened a connection, until `forget`."""
        self._open[client_id] = peer

    def forget(self, client_id: str) -> None:
        """Drop a connection that has ended."""
        self._open.pop(client_id, None)

    def of(self, client: connection.Client) -> Peer:
        """Return who opened this connection, or `UNKNOWN`."""
        return self._open.get(client.id, UNKNOWN)

    def __len__(self) -> int:
        return len(self._open)
