"""The origin's servers: a script with a network namespace of its own, run by path with `-I -S`.

It speaks HTTP on 80 and 8080, HTTPS on 443 (the certificate is chosen by SNI) and
listens on UDP 443, each on IPv4 and IPv6. What it serves, and how it misbehaves, it
is told over its standard input, one JSON object a line; it answers each with one.
Standard library only. `tests.system.host.origin` is the other end.
"""

import contextlib
import hashlib
import http.server
import json
import os
import signal
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, override

PLAIN_PORTS = (80, 8080)
TLS_PORT = 443
PATTERN = bytes(range(256)) * 256  # what a body of a given size is made of
_HANDSHAKE = 10.0  # seconds; a client that stalls must not hold a thread for ever
_SILENCE = 120.0

_routes: dict[str, dict[str, Any]] = {}
_connections: list[dict[str, Any]] = []
_requests: list[dict[str, Any]] = []
_datagrams: list[dict[str, Any]] = []
_contexts: dict[str, ssl.SSLContext] = {}
_http2: set[str] = set()


def pattern(size: int) -> Iterator[bytes]:
    """`size` bytes, in pieces."""
    whole, rest = divmod(size, len(PATTERN))
    yield from (PATTERN for _ in range(whole))
    yield PATTERN[:rest]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection. `_connection` is its line in the log."""

    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float | None] = _SILENCE

    @override
    def setup(self) -> None:
        assert isinstance(self.server, _Server)
        peer, port = self.client_address[:2]
        self._connection: dict[str, Any] = {
            "peer": peer.removeprefix("::ffff:"),
            "port": port,
            "to": self.server.port,
            "sni": "",
            "error": "",
        }
        _connections.append(self._connection)
        if self.server.tls:
            self._shake_hands()
        super().setup()

    def _shake_hands(self) -> None:
        self.request.settimeout(_HANDSHAKE)
        try:
            if any(route["manner"] == "no handshake" for route in _routes.values()):
                while self.request.recv(65536):  # there is no path yet that could choose
                    pass
            self.request = _contexts[""].wrap_socket(self.request, server_side=True)
        except OSError as error:
            self._connection["error"] = str(error)
            raise
        self._connection["sni"] = getattr(self.request.context, "name", "")

    @override
    def finish(self) -> None:
        super().finish()
        if isinstance(self.request, ssl.SSLSocket) and self.request.fileno() >= 0:
            # A body that ends with the connection is whole only after close_notify.
            with contextlib.suppress(OSError):
                self.request.settimeout(1)
                self.request.unwrap()
            self.request.close()

    @override
    def log_message(self, *_: object) -> None:
        """Nothing: the log that counts is `_requests`."""

    def _any(self) -> None:
        body = self._body()
        _requests.append(
            {
                **{key: self._connection[key] for key in ("peer", "port", "to", "sni")},
                "method": self.command,
                "path": self.path,
                "headers": list(self.headers.items()),
                "body_size": len(body),
                "body_sha256": hashlib.sha256(body).hexdigest(),
            }
        )
        route = _routes.get(self.path) or _routes.get(self.path.partition("?")[0])
        if route is None:
            route = {"status": 404, "headers": [], "body": "", "size": None, "manner": "length"}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer(route, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _any  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self, route: dict[str, Any], asked: bytes) -> None:
        manner = route["manner"]
        if manner in ("garbage", "silent", "drop"):
            self._refuse_to_speak(manner)
            return
        body = asked if manner == "echo" else route["body"].encode("latin-1")
        size = len(body) if route["size"] is None else route["size"]
        self.send_response(route["status"])
        for name, value in route["headers"]:
            self.send_header(name, value)
        if manner in ("chunked", "bad chunk"):
            self.send_header("Transfer-Encoding", "chunked")
        elif manner != "close":
            # "short" and "long" say what is sent: less, or more, than was announced.
            announced = {"short": size + 1000, "long": size // 2}.get(manner, size)
            self.send_header("Content-Length", str(announced))
        if manner in ("close", "short", "long"):
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._send(manner, iter([body]) if route["size"] is None else pattern(size))

    def _send(self, manner: str, pieces: Iterator[bytes]) -> None:
        if manner == "reset":
            piece = next(pieces)
            self.wfile.write(piece[: len(piece) // 2])
            self._reset()
        elif manner == "bad chunk":
            self.wfile.write(b"5\r\nhello\r\nzz\r\nworld\r\n")
            self.close_connection = True
        elif manner == "chunked":
            for piece in pieces:
                half = len(piece) // 2
                for part in (piece[:half], piece[half:]):
                    if part:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        else:
            for piece in pieces:
                self.wfile.write(piece)

    def _refuse_to_speak(self, manner: str) -> None:
        self.close_connection = True
        if manner == "garbage":
            self.wfile.write(b"\x00\xff\xfe not HTTP at all \x01\x02\r\n\r\n" * 4)
        elif manner == "silent":
            # Until the peer gives up, or the socket's own timeout.
            with contextlib.suppress(OSError):
                self.request.recv(1)

    def _reset(self) -> None:
        self.close_connection = True
        # No lingering: close sends RST, and the peer's unread bytes are lost with it.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, family: socket.AddressFamily, port: int) -> None:
        self.address_family = family
        self.port = port
        self.tls = port == TLS_PORT
        super().__init__(("::" if family == socket.AF_INET6 else "0.0.0.0", port), _Handler)

    @override
    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    @override
    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news; the log of connections has the handshake's error."""


class _Named(ssl.SSLContext):
    name = ""


def _context(folder: str, name: str, certificate: str) -> ssl.SSLContext:
    context = _Named(ssl.PROTOCOL_TLS_SERVER)
    context.name = name
    context.load_cert_chain(f"{folder}/{certificate}")
    context.set_alpn_protocols([*(["h2"] if name in _http2 else []), "http/1.1"])
    return context


def _listen(folder: str, certificates: dict[str, str], http2: list[str]) -> None:
    """`certificates` maps an SNI name to a file; "" is for all other names.

    Those of `http2` agree to HTTP/2, and cannot speak it: nobody is to get so far.
    """
    _http2.update(http2)
    _contexts.update({n: _context(folder, n, file) for n, file in certificates.items()})

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        chosen = _context(folder, name or "", certificates.get(name or "", certificates[""]))
        connection.context = _contexts.setdefault(name or "", chosen)

    _contexts[""].sni_callback = choose
    for family in (socket.AF_INET, socket.AF_INET6):
        for port in (*PLAIN_PORTS, TLS_PORT):
            server = _Server(family, port)
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        datagrams.bind(("", TLS_PORT))
        threading.Thread(target=_receive, args=(datagrams,), daemon=True).start()


def _receive(sock: socket.socket) -> None:
    while True:
        content, address = sock.recvfrom(65535)
        _datagrams.append({"peer": address[0], "port": address[1], "size": len(content)})
        sock.sendto(content, address)


def _obey(order: dict[str, Any]) -> object:
    match order["do"]:
        case "listen":
            _listen(order["folder"], order["certificates"], order["http2"])
        case "serve":
            _routes[order["path"]] = order
        case "log":
            return {"connections": _connections, "requests": _requests, "datagrams": _datagrams}
        case "forget":
            for log in (_connections, _requests, _datagrams):
                log.clear()
            _routes.clear()
        case unknown:
            raise ValueError(unknown)
    return None


def main(parent: int) -> None:
    """Serve until standard input ends."""
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite, which stops us
    os.unshare(os.CLONE_NEWNET)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_obey(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
