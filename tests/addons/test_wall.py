"""The whole proxy in this process: what reaches a client, and what is said about it."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.addons.rig import EVIL, PATIENCE, Rig, answers, get, origin_tls, response
from tests.system.host import pki

pytestmark = pytest.mark.slow

CHUNK = b"5\r\nhello\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


def blocked(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 403 ") and EVIL not in answer


async def test_what_is_clean_is_delivered_and_what_is_not_is_refused(rig: Rig) -> None:
    await rig.serve(answers(response(b"fine")))
    assert (await rig.ask(get())).endswith(b"fine")
    await rig.serve(answers(response(EVIL)))
    assert blocked(await rig.ask(get()))
    assert [each.kind for each in rig.recorded] == ["web.passed", "web.blocked"]


async def test_a_server_that_answers_before_it_is_asked_opens_no_tunnel(rig: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(EVIL))
        await reader.read()
        writer.close()

    await rig.serve(serve)
    reader, writer = await rig.connect()
    await asyncio.sleep(0.1)  # the server is first
    writer.write(get())

    async with asyncio.timeout(PATIENCE):
        assert EVIL not in await reader.read()
    assert "tunnelled" not in {each.outcome for each in rig.recorded}


async def test_an_alert_before_the_handshake_opens_no_tunnel(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    context = origin_tls(pki.server("good.test", issuer=origins), tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x15\x03\x01\x00\x02\x01\x70")  # a warning, which clients ignore
        await writer.drain()
        await writer.start_tls(context)
        await answers(response(EVIL))(reader, writer)

    await rig.serve(serve)
    reader, writer = await rig.connect()
    await asyncio.sleep(0.1)
    await writer.start_tls(rig.client_tls(), server_hostname="good.test")
    writer.write(get())

    async with asyncio.timeout(PATIENCE):
        assert blocked(await reader.read())


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"G", get()[1:]], id="the first letter alone"),
        pytest.param([b"GE", get()[2:]], id="two letters"),
        pytest.param([b"\r\nGE", get()[2:]], id="after an empty line"),
    ],
)
async def test_a_request_in_pieces_opens_no_tunnel(rig: Rig, pieces: list[bytes]) -> None:
    await rig.serve(answers(response(EVIL)))
    reader, writer = await rig.connect()
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE):
        assert blocked(await reader.read())


async def test_a_handshake_in_pieces_opens_no_tunnel(rig: Rig) -> None:
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read())
        writer.close()

    await rig.serve(serve)
    _, writer = await rig.connect()
    for piece in (b"\x16", b"\x03", b"\x01"):
        writer.write(piece)
        await asyncio.sleep(0.05)
    writer.close()
    await asyncio.sleep(0.1)
    assert received == b""
    assert "tunnelled" not in {each.outcome for each in rig.recorded}


async def test_what_is_no_http_is_tunnelled_and_said_so(rig: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"echo " + await reader.read(100))
        writer.close()

    await rig.serve(serve)
    assert await rig.ask(b"SSH-2.0-client\r\n") == b"echo SSH-2.0-client\r\n"
    assert (await rig.event("web.unscanned")).outcome == "tunnelled"


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")


async def test_an_upgrade_is_refused_before_the_server_sees_it(strict_rig: Rig) -> None:
    await strict_rig.serve(answers(response(EVIL, status="101 Switching Protocols")))
    assert blocked(await strict_rig.ask(get("/", *UPGRADE)))
    (event,) = strict_rig.recorded
    assert (event.kind, event.outcome) == ("web.blocked", "not delivered")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(("Sec-WebSocket-Version: 13",), id="a WebSocket nobody asked for"),
        pytest.param((), id="whatever"),
    ],
)
async def test_an_upgrade_that_nobody_asked_for_is_refused(
    strict_rig: Rig, headers: tuple[str, ...]
) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    await strict_rig.serve(answers(switch + b"\x82\x0c" + EVIL, then_close=False))
    request = get("/", *headers).replace(b"Connection: close\r\n", b"")
    assert blocked(await strict_rig.ask(request))
    (event,) = strict_rig.recorded
    assert event.kind == "web.blocked"


async def test_a_websocket_passes_where_policy_lets_it_and_is_told_once(rig: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        writer.write(b"echo " + await reader.read(100))
        writer.close()

    await rig.serve(serve)
    reader, writer = await rig.connect()
    writer.write(get("/", *UPGRADE).replace(b"Connection: close\r\n", b""))
    async with asyncio.timeout(PATIENCE):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x85no frame")
        assert await reader.read() == b"echo \x81\x85no frame"
    tunnelled = [each for each in rig.recorded if each.outcome == "tunnelled"]
    assert [each.subject for each in tunnelled] == ["http://good.test/"]


@pytest.mark.parametrize("size", [10, 100_000], ids=["held", "streamed"])
async def test_no_client_is_invited_to_quic(rig: Rig, size: int) -> None:
    await rig.serve(answers(response(b"x" * size, 'Alt-Svc: h3=":443"; ma=86400')))
    answer = await rig.ask(get())
    assert len(answer) > size
    assert b"alt-svc" not in answer.lower()


@pytest.mark.parametrize(
    ("head", "part"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n", b"x" * 9000, id="a length"),
        pytest.param(CHUNKED, b"2000\r\n" + b"x" * 8192 + b"\r\n", id="chunks"),
        pytest.param(CHUNKED + b"Content-Type: text/event-stream\r\n", CHUNK, id="events"),
    ],
)
async def test_what_was_streamed_is_told_even_if_it_never_ends(
    rig: Rig, head: bytes, part: bytes
) -> None:
    await rig.serve(answers(head + b"\r\n" + part, then_close=False))
    reader, writer = await rig.connect()
    writer.write(get())
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read(5)
    writer.close()
    event = await rig.event("web.unscanned")
    assert "web.max_body" in event.verdict.reason if event.verdict else False


async def test_an_event_stream_with_a_length_is_held_and_scanned(rig: Rig) -> None:
    await rig.serve(answers(response(EVIL, "Content-Type: text/event-stream")))
    assert blocked(await rig.ask(get()))


async def test_a_refused_upload_is_one_event(rig: Rig) -> None:
    await rig.serve(answers(response()))
    assert blocked(await rig.ask(get("/", f"Content-Length: {len(EVIL)}", method="POST") + EVIL))
    assert [each.kind for each in rig.recorded] == ["web.blocked"]


async def test_a_refusal_of_head_has_no_body(strict_rig: Rig) -> None:
    await strict_rig.serve(answers(response()))
    answer = await strict_rig.ask(get("/", *UPGRADE, method="HEAD"))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status", "says"),
    [
        pytest.param(
            b"CONNECT a.test:443 HTTP/1.1\r\n\r\n", b"403", "explicit proxy", id="CONNECT"
        ),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", "without TLS", id="h2c"),
        pytest.param(
            get("/", "Content-Length: 1", "Transfer-Encoding: chunked", method="POST")
            + b"0\r\n\r\n",
            b"400",
            "not valid HTTP",
            id="two lengths",
        ),
    ],
)
async def test_what_we_do_not_serve_is_told_without_naming_the_engine(
    rig: Rig, request_bytes: bytes, status: bytes, says: str
) -> None:
    await rig.serve(answers(response()))
    answer = await rig.ask(request_bytes)
    assert answer.split()[1] == status
    assert b"mitm" not in answer.lower()
    (event,) = rig.recorded
    assert event.verdict is not None
    assert says in event.verdict.reason
    assert event.remedy


async def test_a_server_cannot_choose_how_its_failure_is_sorted(rig: Rig) -> None:
    await rig.serve(answers(b"Certificate verify failed: body_size_limit\r\n\r\n"))
    assert b" 502 " in (await rig.ask(get()))[:15]
    (event,) = rig.recorded
    assert event.kind == "web.failed"
    assert "spoke" not in event.remedy


async def test_a_client_that_goes_away_is_no_failure(rig: Rig) -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    await rig.serve(serve)
    _, writer = await rig.connect()
    writer.write(get())
    await asyncio.wait_for(asked.wait(), PATIENCE)
    writer.close()
    await asyncio.sleep(0.1)
    assert rig.recorded == []


async def test_a_bad_certificate_is_a_page_under_a_short_leaf(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    bad = pki.server("other.test", issuer=origins)
    await rig.serve(answers(response(EVIL)), tls=origin_tls(bad, tmp_path))
    reader, writer = await rig.connect(rig.client_tls(), "good.test")
    peer = writer.get_extra_info("peercert")
    writer.write(get())
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    assert b" 502 " in answer[:15]
    assert b"certificate" in answer
    hours = ssl.cert_time_to_seconds(peer["notAfter"]) - ssl.cert_time_to_seconds(peer["notBefore"])
    assert hours <= 3 * 3600
    assert (await rig.event("web.blocked")).remedy


async def test_without_a_leaf_there_is_no_connection_but_an_event(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    rig.refuse_to_mint = True
    good = pki.server("good.test", issuer=origins)
    await rig.serve(answers(response()), tls=origin_tls(good, tmp_path))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await rig.connect(rig.client_tls(), "good.test")
    assert (await rig.event("tls.no_leaf")).remedy
