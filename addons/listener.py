"""Accept redirected connections on sockets that the supervisor bound.

mitmproxy binds its own sockets; ours are inherited, so that an unprivileged
worker needs no right to listen and no container can join the port (ADR 0002).

Three kinds of connection arrive. A redirected one has another destination than
the socket it was accepted on: it is served. The self-test's comes from the
self-test's own cgroup: it is reported and reset. Any other was made to the
proxy's port on purpose: serving it would make us an open proxy, so it is reset.

While a daemon takes another's place both accept on the same sockets, and one's
worker gets the other's self-test. It must not be served, and its daemon must
learn at once that it is to try again: it is closed, which is no reset.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, override

import mitmproxy_rs
from mitmproxy import ctx, platform
from mitmproxy.proxy import mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.mode_servers import AsyncioServerInstance, ServerManager

from addons.crowd import Crowd
from addons.engine import Handler, TolerantTop
from addons.peers import Peer, Peers
from addons.sockdiag import Endpoint
from webguard.model import Container

type Owner = Callable[[Endpoint, Endpoint], Awaitable[tuple[int | None, Container | None]]]
"""The cgroup id and the container of the socket with these ends (its own view)."""

type Look = Callable[[Endpoint, Endpoint], None]
"""Told the same ends before `Owner` is asked, while the socket is as young as can be."""


class Probe(Enum):
    """Whose self-test a connection is."""

    NOBODYS = "nobody's"
    OURS = "ours"
    ANOTHERS = "another daemon's"


type Probed = Callable[[int, Endpoint, Endpoint], Probe]
"""Told cgroup and ends of a connection; what is `Probe.OURS` has been dealt with."""

# Who does not read our last words within this many seconds does without.
_LAST_WORDS = 5.0

_BEGUN = 8  # turns of the loop from asyncio's accept to our first line: it takes four
# A close with this set sends RST: the other side learns at once, and nothing lingers.
_LINGER_NONE = struct.pack("ii", 1, 0)


class _Looking(socket.socket):
    """A listening socket that has every connection looked at before anything else is done.

    asyncio begins with a connection some turns of the loop after it has accepted it,
    and all that waited before it. By then a short one would be over.
    """

    look: Look

    @override
    def accept(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        client, wanted = _ends(accepted)
        if wanted is not None:
            self.look(client, wanted)
        return accepted, address


@dataclass(frozen=True, slots=True)
class Asking:
    """How a connection's owner is found."""

    owner: Owner
    look: Look
    probed: Probed


class WebguardMode(mode_specs.TransparentMode):
    """Our mode: transparent, with the listening sockets handed to us."""

    description = "Webguard"


@dataclass(slots=True)
class Counters:
    """What was accepted since the start, by kind."""

    served: int = 0
    direct: int = 0
    probes: int = 0


class WebguardInstance(AsyncioServerInstance[WebguardMode]):
    """mitmproxy's listener, on inherited sockets."""

    def __init__(
        self,
        manager: ServerManager,
        *,
        sockets: Sequence[socket.socket],
        asking: Asking,
        peers: Peers,
        crowd: Crowd,
    ) -> None:
        super().__init__(WebguardMode.parse("webguard"), manager)
        self._sockets = [_looking(each, asking.look) for each in sockets]
        self._asking = asking
        self._peers = peers
        self._crowd = crowd
        self.counters = Counters()
        self.open = 0  # connections that were accepted and have not ended, whoever asks for them

    @override
    async def listen(
        self, host: str, port: int
    ) -> list[asyncio.Server | mitmproxy_rs.udp.UdpServer | mitmproxy_rs.wireguard.WireGuardServer]:
        return [
            await asyncio.start_server(self.handle_stream, sock=each, backlog=1024)
            for each in self._sockets
        ]

    @override
    async def _stop(self) -> None:
        if not self._servers:
            return
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
        # What was accepted a moment ago is not begun with: to close now would be to drop it.
        for _ in range(_BEGUN):
            await asyncio.sleep(0)
        await super()._stop()

    @override
    def make_top_layer(self, context: Context) -> Layer:
        return TolerantTop(context)

    @override
    async def handle_stream(
        self,
        reader: asyncio.StreamReader | mitmproxy_rs.Stream,
        writer: asyncio.StreamWriter | mitmproxy_rs.Stream | None = None,
    ) -> None:
        if not isinstance(reader, asyncio.StreamReader) or not isinstance(
            writer, asyncio.StreamWriter
        ):
            raise TypeError("only TCP sockets are inherited")
        self.open += 1
        try:
            await self._handle(reader, writer)
        finally:
            self.open -= 1

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        client, wanted = _ends(accepted)
        if wanted is None or wanted[1] == accepted.getsockname()[1]:
            # Nobody redirects to a destination with our own port: it was called directly.
            # (The kernel's guard rule refuses it already; this holds without the rule.)
            self.counters.direct += 1
            _reset(writer)
            return
        cgroup, container = await self._asking.owner(client, wanted)
        probe = Probe.NOBODYS if cgroup is None else self._asking.probed(cgroup, client, wanted)
        if probe is Probe.OURS:
            self.counters.probes += 1
            _reset(writer)
            return
        if probe is Probe.ANOTHERS and container is None:
            writer.close()
            return
        if not self._crowd.enter(cgroup, container, _text(wanted)):
            _reset(writer)
            return
        peer = Peer(client=_text(client), server=_text(wanted), cgroup=cgroup, container=container)
        try:
            await self._serve(reader, writer, wanted, peer)
        finally:
            self._crowd.leave(cgroup, container)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        wanted: Endpoint,
        peer: Peer,
    ) -> None:
        self.counters.served += 1
        handler = Handler(ctx.master, reader, writer, ctx.options, self.mode)
        context = handler.layer.context
        handler.layer = self.make_top_layer(context)
        context.client.sockname = wanted
        context.server.address = wanted
        self._peers.add(context.client.id, peer)
        try:
            with self.manager.register_connection(context.client.id, handler):
                await handler.handle_client()
        finally:
            self._peers.forget(context.client.id)
            # mitmproxy leaves the socket open when it gives up before a TLS handshake.
            writer.close()
            await self._end(handler, writer)

    async def _end(self, handler: Handler, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await writer.wait_closed()
        await handler.part()


def _looking(listening: socket.socket, look: Look) -> _Looking:
    """Put it in the place of a listening socket, on the same descriptor."""
    made = _Looking(fileno=listening.detach())
    made.look = look
    return made


def _ends(accepted: socket.socket) -> tuple[Endpoint, Endpoint | None]:
    """Return the peer, and where it wanted to go before it was redirected to us."""
    try:
        client = accepted.getpeername()
        host, port = platform.linux.original_addr(accepted)
    except OSError:  # gone already, or no entry in the connection tracker
        return ("", 0), None
    return (client[0], client[1]), (host, port)


def _text(end: Endpoint) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reset(writer: asyncio.StreamWriter) -> None:
    accepted = writer.get_extra_info("socket")
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()
