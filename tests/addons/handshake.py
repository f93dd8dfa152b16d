"""A TLS handshake in memory, between our side and another implementation's."""

import contextlib
import ssl

from OpenSSL import SSL


def shake(ours: SSL.Connection, theirs: ssl.SSLContext, *, server: bool) -> ssl.SSLObject:
    """Do a handshake in memory with a peer that is another implementation's."""
    to_them, to_us = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = theirs.wrap_bio(
        to_them, to_us, server_side=server, server_hostname=None if server else "good.test"
    )
    done = {ours.do_handshake: False, peer.do_handshake: False}
    for _ in range(12):
        for step in done:
            with contextlib.suppress(SSL.WantReadError, ssl.SSLWantReadError):
                step()
                done[step] = True
            with contextlib.suppress(SSL.WantReadError):
                to_them.write(ours.bio_read(65536))
            if data := to_us.read():
                ours.bio_write(data)
        if all(done.values()):
            return peer
    raise AssertionError("the handshake did not come to an end")
