"""Who is at the other end, for as long as there is a connection."""

from mitmproxy.test import tflow

from addons.peers import UNKNOWN, Peer, Peers


def test_a_connection_is_known_from_its_beginning_to_its_end() -> None:
    peers, client = Peers(), tflow.tclient_conn()
    peer = Peer(client="10.0.0.1:4", server="10.0.0.2:80", cgroup=9)
    assert peers.of(client) is UNKNOWN
    peers.add(client.id, peer)
    assert peers.of(client) is peer
    assert len(peers) == 1
    peers.forget(client.id)
    peers.forget(client.id)
    assert peers.of(client) is UNKNOWN
    assert len(peers) == 0
