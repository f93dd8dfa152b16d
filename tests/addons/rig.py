"""The product's own mitmproxy in this process, between a client and an origin on loopback.

What is false here is the edge only: where a connection wanted to go (there is no
redirect), whose it is, and the signer, which is a CA in this process.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy import platform
from mitmproxy.master import Master

from addons.crowd import Crowd
from addons.listener import Asking, Probe, WebguardInstance
from addons.sockdiag import Endpoint
from certs.authority import Authority, Purpose
from tests.system.host import pki
from tests.webguard.inspection.inputs import look_at
from webguard.daemon.clock import stamp
from webguard.daemon.serving import Serving
from webguard.daemon.settings import Settings
from webguard.model import Container, Detection, Event, ScanResult
from webguard.policy.decide import Policy

PATIENCE = 10.0
CLEAN = ScanResult(sha256="0" * 64)
EVIL = b"EVIL CONTENT"
PROBES = {1: Probe.OURS, 2: Probe.ANOTHERS}  # by cgroup

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def scan(body: bytes, encoding: str) -> ScanResult:
    """Find one thing, as it stands."""
    if EVIL in body:
        return ScanResult(detections=(Detection(engine="test", name="Evil"),))
    return CLEAN


@dataclass
class Rig:
    """A running proxy."""

    port: int
    authority: Authority
    origins: pki.Identity
    instance: WebguardInstance
    master: Master
    serving: Serving
    recorded: list[Event]
    looked: list[tuple[Endpoint, Endpoint]]
    wanted: tuple[str, int] = ("127.0.0.1", 1)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    container: Container | None = None
    cgroup: int = 9  # 1 is the self-test's
    refuse_to_mint: bool = False
    look_up: asyncio.Event = field(default_factory=asyncio.Event)  # set: whose it is gets known

    async def serve(self, serve: Serve, *, tls: ssl.SSLContext | None = None) -> None:
        """Start an origin; from now on all connections are for it."""

        async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.stack.callback(writer.close)
            await serve(reader, writer)

        server = await asyncio.start_server(kept, "127.0.0.1", 0, ssl=tls)
        self.stack.push_async_callback(_end, server)
        self.wanted = server.sockets[0].getsockname()[:2]

    async def connect(
        self, tls: ssl.SSLContext | None = None, name: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as a redirected client does."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=tls, server_hostname=name if tls else None
            )
        self.stack.callback(writer.close)
        return reader, writer

    async def ask(self, request: bytes, tls: ssl.SSLContext | None = None, name: str = "") -> bytes:
        """Send bytes, and return all that comes back until the connection is closed."""
        reader, writer = await self.connect(tls, name or None)
        writer.write(request)
        async with asyncio.timeout(PATIENCE):
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""

    async def event(self, kind: str) -> Event:
        """The first event of this kind, as soon as there is one."""
        async with asyncio.timeout(PATIENCE):
            while not (found := [e for e in self.recorded if e.kind == kind]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found[0]

    def client_tls(self, *protocols: str) -> ssl.SSLContext:
        """What a client uses that trusts our CA, and nothing else."""
        context = ssl.create_default_context(cadata=self.authority.public.pem.decode())
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


async def _end(server: asyncio.Server) -> None:
    server.close()


def get(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    """A request after which the connection is to be closed."""
    lines = [f"{method} {path} HTTP/1.1", "Host: good.test", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def answers(answer: bytes, *, then_close: bool = True) -> Serve:
    """An origin that reads a request's head and says this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if not then_close:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return serve


def response(body: bytes = b"fine", *headers: str, status: str = "200 OK") -> bytes:
    """An answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def origin_tls(identity: pki.Identity, folder: Path, *protocols: str) -> ssl.SSLContext:
    """What a server with this certificate uses."""
    file = folder / "origin.pem"
    file.write_text(identity.pem_with_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch,
    authority: Authority,
    origins: pki.Identity,
    *,
    policy: Policy | None = None,
    max_body: int = 1024 * 1024,
    silence: float = 30,
    descriptors: int = 4096,
) -> AsyncIterator[Rig]:
    """The proxy as `webguard.daemon.serving` builds it."""
    rig = cast("Rig", None)

    async def mint(block_page: bool, names: tuple[str, ...], key: bytes) -> bytes:
        if rig.refuse_to_mint:
            raise ValueError("no")
        purpose = Purpose.BLOCK_PAGE if block_page else Purpose.LEAF
        return authority.mint(names, key, datetime.now(UTC), purpose)

    async def owner(client: object, wanted: object) -> tuple[int | None, Container | None]:
        await rig.look_up.wait()
        return rig.cgroup, rig.container

    settings = Settings(
        policy=policy or Policy(),
        max_body=max_body,
        origin_timeout=silence,
        probe_cgroup=1,
        log_level="error",
    )
    recorded: list[Event] = []
    daemon: Any = SimpleNamespace(record=recorded.append, trusted=lambda container: None)
    scanner: Any = SimpleNamespace(scan=scan, look=look_at)
    signer: Any = SimpleNamespace(mint=mint)
    serving = Serving(settings, scanner, origins.pem.encode(), daemon, signer)
    master, peers = serving.master, serving.peers
    listening = socket.create_server(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    looked: list[tuple[Endpoint, Endpoint]] = []
    instance = WebguardInstance(
        master.addons.get("proxyserver"),
        sockets=[listening],
        asking=Asking(
            owner=owner,
            look=lambda client, wanted: looked.append((client, wanted)),
            probed=lambda cgroup, client, wanted: PROBES.get(cgroup, Probe.NOBODYS),
        ),
        peers=peers,
        crowd=Crowd(descriptors=descriptors, record=recorded.append, stamp=stamp),
    )
    rig = Rig(port, authority, origins, instance, master, serving, recorded, looked)
    rig.look_up.set()
    monkeypatch.setattr(platform.linux, "original_addr", lambda accepted: rig.wanted)
    await instance.start()
    try:
        async with rig.stack:
            yield rig
    finally:
        await _stopped(rig)


async def _stopped(rig: Rig) -> None:
    if rig.instance.is_running:
        await rig.instance.stop()
    open_ones = rig.master.addons.get("proxyserver").connections
    async with asyncio.timeout(PATIENCE):
        while open_ones or len(rig.serving.peers):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.01)  # what was closed is so only after another turn of the loop
