"""Whoever closes, the client gets what it was promised before."""

import asyncio
import socket

import pytest

from addons.parting import Parting, see_off
from tests.addons.rig import PATIENCE, Rig, answers, get, response

PAGE = b"HTTP/1.1 413 Too large\r\n\r\nthe page"


def connected() -> tuple[socket.socket, socket.socket]:
    """The client's end and ours."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), PATIENCE)
        ours, _ = listening.accept()
    return client, ours


async def test_a_client_that_is_still_sending_gets_the_page() -> None:
    client, ours = connected()
    client.sendall(b"u" * 100_000)  # nobody reads it
    ours.sendall(PAGE)
    with client:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(see_off(ours))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(client.sendall, b"u" * 500_000)

            assert await asyncio.to_thread(client.recv, 1000) == PAGE
            assert await asyncio.to_thread(client.recv, 1000) == b""
            assert not ending.done()
            client.shutdown(socket.SHUT_WR)
    assert ours.fileno() == -1


async def test_a_client_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addons.parting._SEE_OFF", 0.1)
    client, ours = connected()
    with client:
        async with asyncio.timeout(PATIENCE):
            await see_off(ours)
        assert ours.fileno() == -1


async def test_a_client_that_never_stops_sending_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("addons.parting._HEARD_OUT", 100_000)
    monkeypatch.setattr("addons.parting._SEE_OFF", 10 * PATIENCE)
    client, ours = connected()
    with client:
        client.sendall(b"u" * 200_000)
        async with asyncio.timeout(PATIENCE):
            await see_off(ours)


async def test_an_upload_of_bytes_that_are_no_request_is_answered_in_full(rig: Rig) -> None:
    """Ours and mitmproxy's closing together, over a real connection."""
    await rig.serve(answers(response()))
    reader, writer = await rig.connect()
    writer.write(b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n")
        for _ in range(20):
            writer.write(b"u" * 10_000)
            await asyncio.sleep(0.01)
        rest = await reader.read()
    assert head.startswith(b"HTTP/1.1 400")
    assert rest.endswith(b"\n")


async def test_a_connection_that_was_just_accepted_is_served_while_we_drain(rig: Rig) -> None:
    await rig.serve(answers(response()))
    rig.look_up.clear()
    reader, writer = await rig.connect()
    writer.write(get())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        draining = tasks.create_task(rig.serving.drain(rig.instance, PATIENCE))
        await asyncio.sleep(0.3)
        assert not draining.done()
        rig.look_up.set()
        assert (await reader.read()).endswith(b"fine")


def test_a_connection_that_has_not_asked_yet_gets_more_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("addons.parting.time.monotonic", lambda: now)
    parting = Parting()
    assert not parting.idle("handshaking")
    now = 104.0
    assert not parting.idle("handshaking")
    now = 106.0
    assert parting.idle("handshaking")
