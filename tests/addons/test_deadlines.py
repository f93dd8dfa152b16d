"""No client waits for ever, and no timer is forgotten."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import tflow

from addons import deadlines
from addons.deadlines import Deadlines
from addons.failures import DEADLINE
from certs.authority import Authority
from tests.addons.rig import Rig, get, origin_tls, response, running
from tests.system.host import pki

pytestmark = pytest.mark.slow


class FakeHandler:
    """Knows when a server was last heard, and which were dropped."""

    def __init__(self) -> None:
        self.heard = 0.0
        self.dropped: list[Connection] = []

    def last_heard(self, server: Connection) -> float:
        return self.heard

    def drop(self, connection: Connection) -> None:
        self.dropped.append(connection)

    drop_server = drop


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def impatient(handler: FakeHandler) -> Deadlines:
    of: Any = {tflow.tflow().client_conn.id: handler}
    return Deadlines(silence=0.1, handler_of=lambda client: of.get(client, handler))


def waiting(addon: Deadlines) -> int:
    return len(addon._waiting) + len(addon._connecting) + len(addon._shaking_hands)


async def test_a_silent_server_is_dropped(impatient: Deadlines, handler: FakeHandler) -> None:
    flow = tflow.tflow()
    impatient.request(flow)
    await asyncio.sleep(0.2)
    assert handler.dropped == [flow.server_conn]
    assert flow.metadata[DEADLINE] == 0.1
    assert waiting(impatient) == 0


async def test_a_server_that_was_just_heard_is_given_more_time(
    impatient: Deadlines, handler: FakeHandler
) -> None:
    # A little ahead of now, so that a busy machine has time to get to the next line.
    handler.heard = time.monotonic() + 2
    impatient.request(tflow.tflow())
    await asyncio.sleep(0.3)
    assert handler.dropped == []
    async with asyncio.timeout(10):
        while not handler.dropped:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert len(handler.dropped) == 1


@pytest.mark.parametrize("end", ["response", "error"])
async def test_an_exchange_that_ended_leaves_no_timer(
    impatient: Deadlines, handler: FakeHandler, end: str
) -> None:
    flow = tflow.tflow()
    impatient.request(flow)
    getattr(impatient, end)(flow)
    assert waiting(impatient) == 0
    await asyncio.sleep(0.2)
    assert handler.dropped == []


async def test_what_is_streamed_already_may_take_its_time(
    impatient: Deadlines, handler: FakeHandler
) -> None:
    flow = tflow.tflow()
    impatient.request(flow)
    flow.response = http.Response.make(200)
    flow.response.stream = True
    await asyncio.sleep(0.2)
    assert handler.dropped == []
    assert waiting(impatient) == 0


async def test_what_is_answered_by_us_does_not_wait(impatient: Deadlines) -> None:
    impatient.request(tflow.tflow(resp=True))
    assert waiting(impatient) == 0


async def test_a_connection_that_is_gone_is_not_touched() -> None:
    addon = Deadlines(silence=0.01, handler_of=lambda client: None)
    addon.request(tflow.tflow())
    await asyncio.sleep(0.05)
    assert waiting(addon) == 0


async def test_a_server_that_does_not_accept_is_given_up(
    impatient: Deadlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "CONNECT", 0.05)
    data = ServerConnectionHookData(tflow.tserver_conn(), tflow.tclient_conn())

    async def connect() -> None:
        impatient.server_connect(data)
        await asyncio.sleep(30)

    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(connect())
    assert waiting(impatient) == 0


@pytest.mark.parametrize("end", ["server_connected", "server_connect_error"])
async def test_a_connection_in_time_is_not_cut(
    impatient: Deadlines, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(deadlines, "CONNECT", 0.02)
    data = ServerConnectionHookData(tflow.tserver_conn(), tflow.tclient_conn())
    impatient.server_connect(data)
    getattr(impatient, end)(data)
    await asyncio.sleep(0.05)
    assert waiting(impatient) == 0


async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)
    writer.close()


@pytest.fixture
async def quick_rig(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> AsyncIterator[Rig]:
    async with running(monkeypatch, authority, origins, silence=0.2) as running_rig:
        yield running_rig
        assert waiting(running_rig.serving.master.addons.get("deadlines")) == 0


async def test_a_server_that_does_not_shake_hands_is_told_of(quick_rig: Rig) -> None:
    await quick_rig.serve(mute)
    answer = await quick_rig.ask(get(), quick_rig.client_tls(), "good.test")
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"no TLS handshake in time" in answer
    verdict = (await quick_rig.event("web.failed")).verdict
    assert verdict is not None
    assert "no TLS handshake in time" in verdict.reason


async def test_a_handshake_in_time_is_not_cut_later(quick_rig: Rig, tmp_path: Path) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"late"))
        await writer.drain()

    tls = origin_tls(pki.server("good.test", issuer=quick_rig.origins), tmp_path)
    await quick_rig.serve(slow, tls=tls)
    reader, writer = await quick_rig.connect(quick_rig.client_tls(), "good.test")
    await asyncio.sleep(0.4)
    writer.write(get())
    assert (await reader.read()).endswith(b"late")


async def test_a_client_that_leaves_during_the_handshake_leaves_no_timer(quick_rig: Rig) -> None:
    await quick_rig.serve(mute)
    async with asyncio.timeout(10):
        with pytest.raises((OSError, TimeoutError)):
            async with asyncio.timeout(0.1):
                await quick_rig.connect(quick_rig.client_tls(), "good.test")
        while quick_rig.instance.open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_idle_connection_outlives_the_longest_silence_of_a_server(rig: Rig) -> None:
    await rig.serve(mute)
    await rig.connect()
    async with asyncio.timeout(10):
        while not (handlers := list(rig.serving.proxyserver.connections.values())):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert handlers[0].timeout_watchdog.timeout > 3600  # the most that web.origin_timeout may be
