"""A client that ends its side after the request still gets the answer; one that resets is gone."""

import asyncio
import contextlib
import socket
import ssl
import struct
from pathlib import Path

import pytest

from tests.addons.rig import EVIL, PATIENCE, Rig, answers, get, origin_tls, response
from tests.system.host import pki

pytestmark = pytest.mark.slow

KEEP = b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"


async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request after a while, in which the end of the client's side is seen."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1)
            writer.write(response(b"hello"))


async def ask_and_end(rig: Rig, request: bytes) -> bytes:
    """As `printf ... | nc` does."""
    reader, writer = await rig.connect()
    writer.write(request)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


@pytest.mark.parametrize("request_", [get(), KEEP], ids=["with close", "with keep-alive"])
async def test_the_answer_arrives_and_the_connection_ends(rig: Rig, request_: bytes) -> None:
    await rig.serve(slowly)
    assert (await ask_and_end(rig, request_)).endswith(b"hello")
    assert (await rig.event("web.passed")).outcome == "delivered"


async def test_the_page_arrives_too(rig: Rig) -> None:
    await rig.serve(answers(response(EVIL)))
    answer = await ask_and_end(rig, KEEP)
    assert answer.startswith(b"HTTP/1.1 403")
    assert EVIL not in answer
    assert (await rig.event("web.blocked")).id.encode() in answer


async def test_a_server_that_fails_is_told_of(rig: Rig) -> None:
    await rig.serve(answers(b""))
    answer = await ask_and_end(rig, KEEP)
    assert answer.startswith(b"HTTP/1.1 502")
    assert (await rig.event("web.failed")).id.encode() in answer


async def test_all_that_was_sent_ahead_is_answered(rig: Rig) -> None:
    await rig.serve(slowly)
    assert (await ask_and_end(rig, KEEP * 3)).count(b"hello") == 3


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"GET /half HTTP/1.1\r\nHo", id="a head"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", id="a body"),
    ],
)
async def test_what_was_sent_by_half_only_is_not_waited_for(rig: Rig, rest: bytes) -> None:
    await rig.serve(slowly)
    assert (await ask_and_end(rig, KEEP + rest)).count(b"hello") == 1


async def test_over_tls_too(rig: Rig, tmp_path: Path) -> None:
    identity = pki.server("good.test", issuer=rig.origins)
    await rig.serve(slowly, tls=origin_tls(identity, tmp_path))

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", rig.port), PATIENCE) as plain:
            to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = rig.client_tls().wrap_bio(to_us, to_them, server_hostname="good.test")
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(to_them.read())
                    to_us.write(plain.recv(65536))
            tls.write(KEEP)
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.unwrap()  # says close_notify, and does not wait for the other's
            plain.sendall(to_them.read())
            plain.shutdown(socket.SHUT_WR)
            while data := plain.recv(65536):
                to_us.write(data)
            answer = b""
            with contextlib.suppress(ssl.SSLWantReadError):
                while piece := tls.read(65536):
                    answer += piece
            return answer

    assert (await asyncio.to_thread(ask)).endswith(b"hello")


async def test_a_client_that_resets_is_gone_and_its_server_is_let_go(rig: Rig) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        ended.set()

    await rig.serve(silent)
    with socket.create_connection(("127.0.0.1", rig.port)) as client:
        client.sendall(KEEP)
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    assert rig.recorded == []
