"""The origin: real web servers behind a veth, programmed by the tests, and their log.

It is in a network namespace of its own, because traffic to the host's own loopback
is not intercepted and proves nothing. The log says who connected: address and port
of the peer as the origin saw them.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import brotli  # type: ignore[import-untyped]
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec

from tests.system.host import pki
from tests.system.host.origin_server import pattern

HOST_V4, ORIGIN_V4 = "10.213.7.1", "10.213.7.2"
HOST_V6, ORIGIN_V6 = "fd00:7767::1", "fd00:7767::2"

# EICAR's own definition; in two parts so that no scanner takes this file away.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"

# Names of the test host's /etc/hosts. The bad ones have a bad certificate each.
GOOD, GOOD_V4, GOOD_V6, GOOD_P384 = "good.test", "v4.good.test", "v6.good.test", "p384.good.test"
EXPIRED, SELF_SIGNED = "expired.test", "self-signed.test"
WRONG_NAME, UNKNOWN_ISSUER = "wrong-name.test", "unknown-issuer.test"


class Manner(StrEnum):
    """How an answer is framed, or in which way the server misbehaves."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"  # the end of the connection ends the body
    ECHO = "echo"  # the request's own body
    SHORT = "short"  # sends less than Content-Length announced, then closes
    LONG = "long"  # sends more
    RESET = "reset"  # RST in the middle of the body
    BAD_CHUNK = "bad chunk"  # a chunk size that is no number
    GARBAGE = "garbage"  # no HTTP
    SILENT = "silent"  # never answers
    DROP = "drop"  # closes without a word
    NO_HANDSHAKE = "no handshake"  # on 443: accepts, and says nothing, whatever the path


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A TCP connection that the origin accepted, also if nothing was asked on it."""

    peer: str
    port: int
    to: int  # the origin's port
    sni: str
    error: str  # of the TLS handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that reached the origin."""

    peer: str
    port: int
    to: int
    sni: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body_size: int
    body_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    """What arrived on UDP 443."""

    peer: str
    port: int
    size: int


def encoded(body: bytes, encoding: str) -> bytes:
    """The body in a Content-Encoding."""
    compress: Mapping[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": brotli.compress,
        "zstd": zstandard.compress,
    }
    return compress[encoding](body)


class Origin:
    """Drives the servers. `serve` before the client asks; read the log afterwards."""

    def __init__(self, folder: Path) -> None:
        """Start the process with its namespace; `listen` follows once it has addresses."""
        self._lock = threading.Lock()
        self._folder = folder
        script = Path(__file__).with_name("origin_server.py")
        self._server = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n", "the origin did not start"
        self.pid = self._server.pid
        self.ca_file = folder / "origin-ca.pem"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.communicate()

    def _tell(self, do: str, **order: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with self._lock:
            self._server.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._server.stdin.flush()
            return json.loads(self._server.stdout.readline())

    def listen(self) -> None:
        """Make the certificates and start the servers."""
        ca, stranger = pki.authority("Test Origin CA"), pki.authority("Unknown CA")
        good = (GOOD, GOOD_V4, GOOD_V6, ORIGIN_V4, ORIGIN_V6)
        identities = {
            "": pki.server(*good, issuer=ca),
            GOOD_P384: pki.server(GOOD_P384, issuer=ca, key=ec.SECP384R1()),
            EXPIRED: pki.server(EXPIRED, issuer=ca, expired=True),
            SELF_SIGNED: pki.server(SELF_SIGNED, issuer=None),
            WRONG_NAME: pki.server("somebody-else.test", issuer=ca),
            UNKNOWN_ISSUER: pki.server(UNKNOWN_ISSUER, issuer=stranger),
        }
        self.ca_file.write_text(ca.pem)
        certificates = {}
        for name, identity in identities.items():
            certificates[name] = f"{name or 'good'}.pem"
            (self._folder / certificates[name]).write_text(identity.pem_with_key)
        bad = [EXPIRED, SELF_SIGNED, WRONG_NAME, UNKNOWN_ISSUER]
        self._tell("listen", folder=str(self._folder), certificates=certificates, http2=bad)

    @staticmethod
    def hosts_file() -> str:
        """Lines for the test host's /etc/hosts."""
        both = f"{GOOD} {GOOD_P384} {EXPIRED} {SELF_SIGNED} {WRONG_NAME} {UNKNOWN_ISSUER}"
        return (
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
            f"{ORIGIN_V4} {both} {GOOD_V4}\n{ORIGIN_V6} {both} {GOOD_V6}\n"
        )

    def serve(
        self,
        path: str,
        body: bytes = b"",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        encoding: str = "",
        manner: Manner = Manner.LENGTH,
    ) -> str:
        """Answer `path` so from now on, with any query. Returns the body's SHA-256.

        `encoding` sends the body in that Content-Encoding; the hash is of the body itself.
        """
        fields = {"Content-Type": "application/octet-stream", **(headers or {})}
        sent = body
        if encoding:
            sent = encoded(body, encoding)
            fields["Content-Encoding"] = encoding
        self._serve(path, sent, None, status, fields, manner)
        return hashlib.sha256(body).hexdigest()

    def serve_big(self, path: str, size: int, *, manner: Manner = Manner.LENGTH) -> str:
        """Answer `path` with `size` bytes of a pattern that is made as it is sent."""
        self._serve(path, b"", size, 200, {"Content-Type": "application/octet-stream"}, manner)
        digest = hashlib.sha256()
        for piece in pattern(size):
            digest.update(piece)
        return digest.hexdigest()

    def _serve(
        self,
        path: str,
        body: bytes,
        size: int | None,
        status: int,
        headers: Mapping[str, str],
        manner: Manner,
    ) -> None:
        self._tell(
            "serve",
            path=path,
            # latin-1 keeps any byte as one character, which JSON then carries
            body=body.decode("latin-1"),
            size=size,
            status=status,
            headers=list(headers.items()),
            manner=manner.value,
        )

    def requests(self, path: str | None = None) -> list[Request]:
        """What was asked since `forget`, oldest first; of one path (without query) only."""
        logged = [
            Request(**{**each, "headers": tuple(tuple(pair) for pair in each["headers"])})
            for each in self._tell("log")["requests"]
        ]
        return [each for each in logged if path in (None, each.path.partition("?")[0])]

    def connections(self) -> list[Connection]:
        """Who connected since `forget`."""
        return [Connection(**each) for each in self._tell("log")["connections"]]

    def datagrams(self) -> list[Datagram]:
        """What arrived on UDP 443 since `forget`."""
        return [Datagram(**each) for each in self._tell("log")["datagrams"]]

    def forget(self) -> None:
        """Clear the log and all that is served."""
        self._tell("forget")
