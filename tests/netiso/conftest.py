"""A host of our own for the system tests: namespaces, an origin behind a veth, cgroups, a proxy."""

import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from netiso.apply import Kernel
from netiso.cgroups import find_root
from netiso.context import Context
from netiso.redirect import Redirect
from tests.netiso.yard import Yard

PROXY_PORT = 13128
ORIGIN_V4, ORIGIN_V6 = "10.231.0.2", "fd31::2"
_REPOSITORY = str(Path(__file__).parents[2])

# Serves "origin" on web ports and others, TCP and UDP, both families.
_ORIGIN = """
import select, socket
sockets = []
for port in (53, 80, 443, 8080, 9999):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock = socket.socket(socket.AF_INET6, kind)
        sock.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(16)
        sockets.append(sock)
print("ready", flush=True)
while True:
    for sock in select.select(sockets, [], [])[0]:
        if sock.type == socket.SOCK_STREAM:
            connection, _ = sock.accept()
            try:
                connection.sendall(b"origin")
            except OSError:
                pass
            connection.close()
        else:
            _, peer = sock.recvfrom(100)
            sock.sendto(b"origin", peer)
"""

# One connection, from inside a cgroup: the socket is made after the move.
_CLIENT = """
import errno, json, os, socket, sys
procs, kind, address, port = sys.argv[1:]
if procs:
    with open(procs, "w") as file:
        file.write(str(os.getpid()))
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sock = socket.socket(family, getattr(socket, kind))
sock.settimeout(5)
try:
    sock.connect((address, int(port)))
    if kind == "SOCK_DGRAM":
        sock.send(b"x")
    print(json.dumps(sock.recv(100).decode()))
except OSError as error:
    print(json.dumps(errno.errorcode.get(error.errno, type(error).__name__)))
"""

# One UDP answer from inside a cgroup, to a client in the origin's namespace.
_ANSWER = """
import os, socket, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", int(sys.argv[2])))
print("ready", flush=True)
sock.sendto(b"answer", sock.recvfrom(10)[1])
"""
_CALLER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(5)
sock.bind(("0.0.0.0", int(sys.argv[2])))
sock.sendto(b"x", ("10.231.0.1", int(sys.argv[1])))
print(sock.recv(10).decode())
"""

# A daemon reduced to its tables; ends when its standard input does.
_OWNER = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from netiso.apply import Kernel
from netiso.redirect import Redirect
given = json.loads(sys.argv[2])
entries = given.pop("entries")
given["ports"] = tuple(given["ports"])
kernel = Kernel(Redirect(**given))
kernel.load()
kernel.add_cgroups(tuple(each) for each in entries)
kernel.redirect_containers()
helper = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
print(helper.pid, flush=True)
sys.stdin.read()
helper.kill()
kernel.close()
"""


@dataclass
class Proxy:
    """A listener on both loopbacks that answers "proxy" and notes original destinations."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    def start(self, port: int) -> None:
        """Listen on a port of both loopbacks."""
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(16)
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        """Close the listeners."""
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
        self._sockets.clear()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            while True:
                try:
                    connection, _ = sock.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    self.asked.append(original_destination(connection))
                    connection.sendall(b"proxy")


def original_destination(connection: socket.socket) -> tuple[str, int]:
    """What the client asked for, before the redirect."""
    if connection.family == socket.AF_INET:
        told = connection.getsockopt(socket.IPPROTO_IP, 80, 16)
        return socket.inet_ntop(socket.AF_INET, told[4:8]), struct.unpack_from("!H", told, 2)[0]
    told = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)
    return socket.inet_ntop(socket.AF_INET6, told[8:24]), struct.unpack_from("!H", told, 2)[0]


@dataclass
class Host:
    """A network namespace of our own, in which the test itself runs."""

    instance: str
    root: Path
    proxy: Proxy
    stack: ExitStack
    origin_pid: int
    proxy_port: int = PROXY_PORT
    origin: Mapping[str, str] = field(default_factory=lambda: {"v4": ORIGIN_V4, "v6": ORIGIN_V6})
    own: Mapping[str, str] = field(default_factory=lambda: {"v4": "10.231.0.1", "v6": "fd31::1"})

    def cgroup(self, *below: str) -> Path:
        """Make a cgroup of a random name, or one below it."""
        path = self.root.joinpath(f"{self.instance}-{secrets.token_hex(4)}")
        for each in (path, *(path.joinpath(*below[: n + 1]) for n in range(len(below)))):
            each.mkdir()
            self.stack.callback(_remove, each)
        return path.joinpath(*below)

    def entry(self, cgroup: Path) -> tuple[int, int]:
        """Level and id."""
        return len(cgroup.relative_to(self.root).parts), cgroup.stat().st_ino

    def ask(self, cgroup: Path | None, address: str, port: int, kind: str = "SOCK_STREAM") -> str:
        """Connect from a cgroup (None: our own); what came back, or the error's name."""
        procs = str(cgroup / "cgroup.procs") if cgroup else ""
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CLIENT, procs, kind, address, str(port)],
            capture_output=True,
            check=True,
            text=True,
            timeout=30,
        )
        return str(json.loads(done.stdout))

    def answer_to(self, cgroup: Path, server_port: int, client_port: int) -> str:
        """What a client of the origin's side, on a port of its own, hears from a UDP server."""
        server = subprocess.Popen(
            [sys.executable, "-I", "-c", _ANSWER, str(cgroup / "cgroup.procs"), str(server_port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(_end, server)
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        enter = ["nsenter", "--net", "--target", str(self.origin_pid)]
        done = subprocess.run(
            [*enter, sys.executable, "-I", "-c", _CALLER, str(server_port), str(client_port)],
            capture_output=True,
            check=True,
            text=True,
            timeout=30,
        )
        return done.stdout.strip()

    def redirect(self, **changes: object) -> Redirect:
        """What the tests intercept, unless they say otherwise."""
        wanted: dict[str, object] = {
            "instance": self.instance,
            "generation": 1,
            "proxy_port": PROXY_PORT,
            "ports": (80, 443),
            **changes,
        }
        return Redirect(**wanted)  # type: ignore[arg-type] # the caller's own mistake if not

    def kernel(self, **changes: object) -> Kernel:
        """A `Kernel` that is closed at the end; not loaded yet."""
        kernel = Kernel(self.redirect(**changes))
        self.stack.callback(kernel.close)
        return kernel

    def owner(self, *cgroups: Path, **changes: object) -> subprocess.Popen[str]:
        """Another process that holds loaded tables and has the redirect on."""
        given = {
            "instance": self.instance,
            "generation": 1,
            "proxy_port": PROXY_PORT,
            "ports": (80, 443),
            "entries": [self.entry(each) for each in cgroups],
            **changes,
        }
        owner = subprocess.Popen(
            [sys.executable, "-I", "-c", _OWNER, _REPOSITORY, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(_end, owner)
        assert owner.stdout
        helper = int(owner.stdout.readline())
        self.stack.callback(_kill, helper)
        return owner


@pytest.fixture
def host() -> Iterator[Host]:
    """Run the test in a network namespace with an origin behind a veth, v4 and v6."""
    with ExitStack() as stack:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        stack.callback(os.close, home)
        os.unshare(os.CLONE_NEWNET)
        stack.callback(os.setns, home, os.CLONE_NEWNET)
        origin = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-I", "-c", _ORIGIN],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, origin)
        assert origin.stdout
        assert origin.stdout.readline() == "ready\n"
        _ip("link set lo up")
        _ip(f"link add veth0 type veth peer name veth1 netns {origin.pid}")
        _ip("address add 10.231.0.1/24 dev veth0")
        _ip("address add fd31::1/64 dev veth0 nodad")
        _ip("link set veth0 up")
        inside = ["nsenter", "--net", "--target", str(origin.pid)]
        _ip("link set lo up", *inside)
        _ip(f"address add {ORIGIN_V4}/24 dev veth1", *inside)
        _ip(f"address add {ORIGIN_V6}/64 dev veth1 nodad", *inside)
        _ip("link set veth1 up", *inside)
        proxy = Proxy()
        proxy.start(PROXY_PORT)
        stack.callback(proxy.stop)
        yield Host(f"wgt{secrets.token_hex(4)}", find_root(), proxy, stack, origin.pid)


@pytest.fixture
def nft() -> Iterator[Callable[[str], str]]:
    """Another program of the host's root: runs nft text over a socket of its own."""
    contexts: list[Context] = []

    def run(commands: str) -> str:
        # Made late: it belongs to the namespace of the moment.
        if not contexts:
            contexts.append(Context())
        return contexts[0].run(commands)

    yield run
    for context in contexts:
        context.close()


@pytest.fixture
def yard(host: Host) -> Yard:
    """Two bridges; `a` and `b` on the first, by an odd name and a usual one; `c` on the second."""
    for name, value in (
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
    ):
        Path(f"/proc/sys/net/{name}").write_text(value)
    # Nothing is forwarded out of an interface whose own address is still tentative.
    _ip("-6 address flush dev veth0 scope link")
    _ip("address add fe80::1/64 dev veth0 nodad")
    outside = ["nsenter", "--net", "--target", str(host.origin_pid)]
    _ip("route add 10.232.0.0/16 via 10.231.0.1", *outside)
    _ip("route add fd32::/32 via fd31::1", *outside)
    yard = Yard(host)
    yard.bridge("docker0", 1)
    yard.bridge("office", 2)
    yard.container("a", "docker0", "p-odd", 1)
    yard.container("b", "docker0", "veth1a2b3c4", 1)
    yard.container("c", "office", "vethc", 2)
    for family in ("v4", "v6"):
        yard.addresses["host", family] = host.own[family]
        yard.addresses["outside", family] = host.origin[family]
    return yard


@pytest.fixture
def kernel(host: Host) -> Kernel:
    """Interception, loaded and on."""
    kernel = host.kernel()
    kernel.load()
    kernel.redirect_containers()
    return kernel


def _ip(arguments: str, *prefix: str) -> None:
    subprocess.run([*prefix, "ip", *arguments.split()], check=True, timeout=10)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(timeout=10)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def _remove(cgroup: Path) -> None:
    with suppress(FileNotFoundError):
        cgroup.rmdir()
