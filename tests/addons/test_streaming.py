"""Bodies that stream through the whole proxy while they are looked at."""

import asyncio
import contextlib
from pathlib import Path

import h2.connection
import pytest

from tests.addons.rig import EVIL, PATIENCE, Rig, get, origin_tls
from tests.addons.test_engine import over_h2
from tests.system.host import pki

pytestmark = pytest.mark.slow

EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"


class Pieces:
    """An origin that sends the next piece only when it is told to."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.go_on = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for each in self._pieces:
                writer.write(each)
                await self.go_on.wait()
                self.go_on.clear()
            await reader.read()
        writer.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def test_an_event_reaches_the_client_before_the_next_one_is_sent(rig: Rig) -> None:
    origin = Pieces(EVENTS + chunk(b"one"), chunk(b"two"), b"0\r\n\r\n")
    await rig.serve(origin.serve)
    reader, writer = await rig.connect()
    writer.write(get())
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\r\n\r\n")
        for expected in (b"one", b"two"):
            assert await reader.readexactly(8) == chunk(expected)
            origin.go_on.set()
        assert await reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        pytest.param(EVENTS + chunk(EVIL[:6]), chunk(EVIL[6:]) + b"0\r\n\r\n", id="events"),
        pytest.param(LENGTH + EVIL[:6], EVIL[6:], id="a large body"),
    ],
)
async def test_what_is_found_after_a_part_was_delivered_ends_with_a_reset(
    rig: Rig, first: bytes, rest: bytes
) -> None:
    origin = Pieces(first, rest)
    await rig.serve(origin.serve)
    reader, writer = await rig.connect()
    writer.write(get())
    async with asyncio.timeout(PATIENCE):
        assert EVIL[:6] in await reader.readuntil(EVIL[:6])
        origin.go_on.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    event = await rig.event("web.blocked")
    assert event.outcome == "partly delivered"
    assert event.scan is not None
    assert [each.name for each in event.scan.detections] == ["Evil"]
    assert "as a whole" in event.scan.unscanned[0].reason


async def test_over_h2_the_stream_alone_is_reset(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    origin = Pieces(EVENTS + chunk(b"one") + chunk(EVIL) + b"0\r\n\r\n")
    good = pki.server("good.test", issuer=origins)
    await rig.serve(origin.serve, tls=origin_tls(good, tmp_path, "http/1.1"))
    with pytest.raises(AssertionError, match="reset"):
        await over_h2(rig)


@pytest.mark.parametrize("how", ["a length", "chunks"])
async def test_an_upload_that_streams_is_refused_and_never_complete_at_the_server(
    rig: Rig, how: str
) -> None:
    received = bytearray()
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                received.extend(data)
        done.set()
        writer.close()

    await rig.serve(serve)
    clean = b"x" * 9000
    if how == "a length":
        framing, sent = f"Content-Length: {9000 + len(EVIL)}", clean + EVIL
    else:
        framing, sent = "Transfer-Encoding: chunked", chunk(clean) + chunk(EVIL) + b"0\r\n\r\n"
    answer = await rig.ask(get("/", framing, method="POST") + sent)
    assert answer.startswith(b"HTTP/1.1 403 ")
    await asyncio.wait_for(done.wait(), PATIENCE)
    assert EVIL not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert [each.kind for each in rig.recorded] == ["web.unscanned", "web.blocked"]
    assert rig.recorded[-1].id.encode() in answer


async def test_a_server_is_left_when_an_upload_is_refused_though_the_client_stays(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        left.set()
        writer.close()

    good = pki.server("good.test", issuer=origins)
    await rig.serve(serve, tls=origin_tls(good, tmp_path, "http/1.1"))
    _, writer = await rig.connect(rig.client_tls("h2"), "good.test")
    client = h2.connection.H2Connection()
    client.initiate_connection()
    asking = {":method": "POST", ":scheme": "https", ":path": "/", ":authority": "good.test"}
    client.send_headers(1, [*asking.items(), ("content-length", "9999")])
    client.send_data(1, b"x" * 5000 + EVIL)
    writer.write(client.data_to_send())
    await asyncio.wait_for(left.wait(), PATIENCE)
    assert (await rig.event("web.blocked")).outcome == "partly delivered"
