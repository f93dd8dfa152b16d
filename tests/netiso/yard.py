"""Containers behind bridges, for the tests of isolation: namespaces, veths, and who reaches whom.

The host is that of the other tests: its origin is the outside, and the veth to
it is spared by name, as an operator would.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from netiso.apply import Kernel
from netiso.isolation import Interfaces, Isolation, sort_interfaces
from netiso.links import read_links

if TYPE_CHECKING:
    from tests.netiso.conftest import Host

UPLINK = "veth0"
SPARE = (UPLINK, "virbr*", "vnet*")
PATIENCE = 30.0
BRIEF = 0.5  # for what is expected not to come; what works needs far less

# A container: says whatever it is told, in both families.
_ECHO = """
import socket, threading
def serve(connection):
    while data := connection.recv(100):
        connection.sendall(data)
sock = socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=sock.accept()[:1], daemon=True).start()
"""


@dataclass
class Yard:
    """Bridges with containers behind the host of the tests."""

    host: "Host"
    containers: dict[str, int] = field(default_factory=dict)
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)

    def bridge(self, name: str, number: int) -> None:
        """Make a bridge with the gateway's addresses of subnet `number`."""
        ip(f"link add {name} type bridge")
        self._gateway(name, number)

    def _gateway(self, name: str, number: int) -> None:
        ip(f"address add 10.232.{number}.1/24 dev {name}")
        ip(f"address add fd32:0:0:{number}::1/64 dev {name} nodad")
        ip(f"link set {name} up")
        self.addresses[f"gateway{number}", "v4"] = f"10.232.{number}.1"
        self.addresses[f"gateway{number}", "v6"] = f"fd32:0:0:{number}::1"

    def container(self, name: str, bridge: str, port: str, number: int) -> None:
        """Start a container; `port` is the host's end of its veth, on a bridge or routed ("")."""
        last = len(self.containers) + 2
        server = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-I", "-c", _ECHO],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.host.stack.callback(end, server)
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        inside = ["nsenter", "--net", "--target", str(server.pid)]
        ip(f"link add {port} type veth peer name eth0 netns {server.pid}")
        if bridge:
            ip(f"link set {port} master {bridge} up")
        else:
            self._gateway(port, number)
        ip("link set lo up", *inside)
        ip(f"address add 10.232.{number}.{last}/24 dev eth0", *inside)
        ip(f"address add fd32:0:0:{number}::{last}/64 dev eth0 nodad", *inside)
        ip("link set eth0 up", *inside)
        ip(f"route add default via 10.232.{number}.1", *inside)
        ip(f"route add default via fd32:0:0:{number}::1", *inside)
        self.containers[name] = server.pid
        self.addresses[name, "v4"] = f"10.232.{number}.{last}"
        self.addresses[name, "v6"] = f"fd32:0:0:{number}::{last}"

    def bare(self) -> int:
        """Start a process in a namespace of its own, with loopback alone; return its pid."""
        sleeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.host.stack.callback(end, sleeper)
        assert sleeper.stdout
        assert sleeper.stdout.readline() == "ready\n"
        return sleeper.pid

    def open_socket(self, where: str, family: str) -> socket.socket:
        """Make a socket in a place's namespace, in which it stays wherever it is used."""

        def make() -> socket.socket:
            if where != "host":
                pid = self.containers.get(where, self.host.origin_pid)
                with Path(f"/proc/{pid}/ns/net").open() as namespace:
                    os.setns(namespace.fileno(), os.CLONE_NEWNET)
            return socket.socket(socket.AF_INET if family == "v4" else socket.AF_INET6)

        if where == "host":
            made = make()
        else:
            with ThreadPoolExecutor(1) as elsewhere:  # the thread ends with its namespace
                made = elsewhere.submit(make).result()
        made.settimeout(PATIENCE)
        return made

    def flow(self, source: str, address: str, family: str, port: int = 7) -> socket.socket:
        """Open a connection that lasts until the end of the test."""
        flow = self.open_socket(source, family)
        self.host.stack.callback(flow.close)
        flow.connect((address, port))
        assert talk(flow)
        return flow

    def reaches(self, source: str, address: str, family: str, port: int = 7) -> bool:
        """Whether a new connection gets an answer, however late."""
        return self._answered(source, address, family, port, PATIENCE)

    def is_cut(self, source: str, address: str, family: str, port: int = 7) -> bool:
        """Whether a new connection gets no answer."""
        return not self._answered(source, address, family, port, BRIEF)

    def _answered(self, source: str, address: str, family: str, port: int, patience: float) -> bool:
        with self.open_socket(source, family) as sock:
            sock.settimeout(patience)
            try:
                sock.connect((address, port))
                return talk(sock, patience)
            except OSError:
                return False

    def isolate(self, kernel: Kernel) -> None:
        """Isolate with what there is now, the uplink spared."""
        kernel.isolate(Isolation(spare=SPARE), interfaces())


def interfaces() -> Interfaces:
    """Those of the host as it is now, the uplink spared."""
    return sort_interfaces(read_links(), SPARE)


def talk(flow: socket.socket, patience: float = PATIENCE) -> bool:
    """Say a word over a connection; whether it came back in time."""
    flow.settimeout(patience)
    try:
        flow.sendall(b"x")
        return flow.recv(10) != b""
    except TimeoutError:
        return False


def publish(yard: Yard, nft: Callable[[str], str]) -> None:
    """Publish port 7 of `a` as 8081 of the host, as Docker does; serve 9999 on the host."""
    rules = [
        f"add rule inet publish {chain} {ip} daddr {yard.addresses['host', family]} "
        f"tcp dport 8081 dnat {ip} to {_bracket(yard.addresses['a', family])}:7"
        for chain in ("p", "o")
        for family, ip in (("v4", "ip"), ("v6", "ip6"))
    ]
    assert not nft(
        "add table inet publish\n"
        "add chain inet publish p { type nat hook prerouting priority -100; }\n"
        "add chain inet publish o { type nat hook output priority -100; }\n" + "\n".join(rules)
    )
    server = subprocess.Popen(
        [sys.executable, "-I", "-c", _ECHO.replace('("::", 7)', '("::", 9999)')],
        stdout=subprocess.PIPE,
        text=True,
    )
    yard.host.stack.callback(end, server)
    assert server.stdout
    assert server.stdout.readline() == "ready\n"


def ip(arguments: str, *prefix: str) -> bytes:
    command = [*prefix, "ip", *arguments.split()]
    return subprocess.run(command, check=True, timeout=10, stdout=subprocess.PIPE).stdout


def _bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process of the test."""
    process.kill()
    process.wait(timeout=10)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
