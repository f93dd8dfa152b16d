"""Each change that we make to mitmproxy, seen from outside: a bump that undoes one fails here."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from mitmproxy import version
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http1

from addons import engine
from certs.authority import Authority
from tests.addons.rig import PATIENCE, Rig, answers, get, origin_tls, response, running
from tests.system.host import pki
from webguard.policy.decide import Policy
from webguard.policy.urls import Kind, UrlList

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
async def impatient(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> AsyncIterator[Rig]:
    async with running(monkeypatch, authority, origins, silence=0.2) as rig:
        yield rig


async def over_h2(
    rig: Rig, method: str = "GET", body: bytes = b"", **more: str
) -> tuple[dict[str, str], bytes]:
    """Ask for / by HTTP/2, and return headers and body; a head that is all has "end"."""
    reader, writer = await rig.connect(rig.client_tls("h2"), "good.test")
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    client.send_headers(
        1,
        [
            *((":method", method), (":scheme", "https"), (":path", "/")),
            (":authority", "good.test"),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ],
        end_stream=not body,
    )
    if body:
        client.send_data(1, body)  # and more to come, as far as anybody knows
    writer.write(client.data_to_send())
    headers: dict[str, str] = {}
    answer = b""
    async with asyncio.timeout(PATIENCE):
        while data := await reader.read(65536):
            for event in client.receive_data(data):
                match event:
                    case h2.events.ResponseReceived():
                        assert not headers
                        headers = {str(k): str(v) for k, v in event.headers or ()}
                        headers |= {"end": "here"} if event.stream_ended else {}
                    case h2.events.DataReceived():
                        answer += event.data or b""
                    case h2.events.StreamEnded():
                        return headers, answer
                    case h2.events.StreamReset():
                        raise AssertionError(f"reset: {event}")
                    case _:
                        pass
            writer.write(client.data_to_send())
    raise AssertionError("no complete answer")


def test_the_engine_is_the_one_that_we_know() -> None:
    assert version.VERSION == engine.REQUIRED_VERSION


def test_ours_stand_in_their_place_however_often_they_are_put_there() -> None:
    engine.install()
    engine.install()
    assert http_layers.HttpStream is engine.PagedStream
    assert vars(http_layers)["Http1Server"] is engine.BoundedServer
    assert vars(http_layers)["Http1Client"] is engine.BoundedClient
    assert vars(_http1)["ChunkedReader"] is engine.TrailerlessReader
    assert not issubclass(engine.PagedStream.__base__ or object, engine.PagedStream)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_server_that_cannot_be_reached_is_one_page(rig: Rig, method: str) -> None:
    rig.wanted = ("127.0.0.1", free_port())
    answer = await rig.ask(get(method=method))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert rig.recorded[0].id.encode() in head
    assert bool(body) is (method == "GET")
    assert b"mitm" not in answer.lower()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_server_that_cannot_be_reached_is_one_page_over_h2_too(
    rig: Rig, method: str
) -> None:
    rig.wanted = ("127.0.0.1", free_port())
    headers, body = await over_h2(rig, method)
    assert headers[":status"] == "502"
    assert headers["x-webguard-event"] == rig.recorded[0].id
    assert "server" not in headers
    assert bool(body) is (method == "GET")


async def test_a_server_whose_answer_is_refused_is_not_listened_to_any_more(
    strict_rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
            await reader.read()
        left.set()
        writer.close()

    good = pki.server("good.test", issuer=origins)
    await strict_rig.serve(serve, tls=origin_tls(good, tmp_path, "http/1.1"))
    headers, _ = await over_h2(strict_rig)
    assert headers[":status"] == "403"
    await asyncio.wait_for(left.wait(), PATIENCE)  # the client is still connected


async def test_grpc_is_told_of_a_server_that_cannot_be_reached_in_its_own_terms(rig: Rig) -> None:
    rig.wanted = ("127.0.0.1", free_port())
    headers, body = await over_h2(rig, "POST", content_type="application/grpc")
    assert (headers[":status"], headers["grpc-status"], body) == ("200", "14", b"")
    assert headers["end"] == "here"  # else it would be no status but the beginning of an answer


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0\1x"], ids=["no message", "a stream of them"])
async def test_a_grpc_call_to_a_blocked_address_is_denied(
    monkeypatch: pytest.MonkeyPatch,
    authority: Authority,
    origins: pki.Identity,
    tmp_path: Path,
    body: bytes,
) -> None:
    blocked = UrlList(name="l", kind=Kind.BLOCKED, entries=("good.test",))
    context = origin_tls(pki.server("good.test", issuer=origins), tmp_path, "h2")
    async with running(monkeypatch, authority, origins, policy=Policy(lists=(blocked,))) as rig:
        await rig.serve(answers(b""), tls=context)
        headers, answer = await over_h2(rig, "POST", body, content_type="application/grpc+proto")
        event = await rig.event("web.blocked")
    assert (headers[":status"], headers["grpc-status"], answer) == ("200", "7", b"")
    assert headers["end"] == "here"
    assert event.id in headers["grpc-message"]


async def test_h2_is_spoken_with_those_who_speak_nothing_else(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    context = origin_tls(pki.server("good.test", issuer=origins), tmp_path, "http/1.1")
    await rig.serve(answers(response(b"fine")), tls=context)
    headers, body = await over_h2(rig)
    assert (headers[":status"], body) == ("200", b"fine")


async def test_a_client_that_resets_a_stream_is_no_failure_of_the_servers(
    rig: Rig, origins: pki.Identity, tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    good = pki.server("good.test", issuer=origins)
    await rig.serve(serve, tls=origin_tls(good, tmp_path, "http/1.1"))
    _, writer = await rig.connect(rig.client_tls("h2"), "good.test")
    client = h2.connection.H2Connection()
    client.initiate_connection()
    asking = {":method": "GET", ":scheme": "https", ":path": "/", ":authority": "good.test"}
    client.send_headers(1, list(asking.items()), end_stream=True)
    writer.write(client.data_to_send())
    await asyncio.wait_for(asked.wait(), PATIENCE)
    client.reset_stream(1)
    writer.write(client.data_to_send())
    await asyncio.sleep(0.2)
    assert rig.recorded == []


async def test_after_an_interim_answer_of_ours_the_error_is_a_page(rig: Rig) -> None:
    await rig.serve(answers(b"garbage\r\n\r\n"))
    reader, writer = await rig.connect()
    writer.write(get("/", "Expect: 100-continue", "Content-Length: 2", method="POST"))
    async with asyncio.timeout(PATIENCE):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"ab")
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")


async def test_after_an_answer_has_begun_there_is_no_page_in_it(rig: Rig) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
    await rig.serve(answers(head + b"x" * 5000))
    answer = await rig.ask(get())
    assert answer.partition(b"\r\n\r\n")[2] == b"x" * 5000
    assert (await rig.event("web.failed")).outcome == "partly delivered"


async def test_an_interim_answer_of_the_servers_is_not_the_answer(rig: Rig) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    await rig.serve(answers(b"HTTP/1.1 100 Continue\r\n\r\n" + hints * 2 + response(b"fine")))
    answer = await rig.ask(get())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nfine")


async def test_trailers_are_discarded_and_the_body_delivered(rig: Rig) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\nX: y\r\n\r\n"
    await rig.serve(answers(chunked))
    assert (await rig.ask(get())).endswith(b"4\r\nfine\r\n0\r\n\r\n")


async def test_a_server_whose_head_never_ends_is_given_up(rig: Rig) -> None:
    endless = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * engine.LONGEST_HEAD
    await rig.serve(answers(endless, then_close=False))
    assert (await rig.ask(get())).startswith(b"HTTP/1.1 502 ")
    assert "head" in (await rig.event("web.failed")).verdict.reason  # type: ignore[union-attr]


async def test_a_client_whose_head_never_ends_is_refused(rig: Rig) -> None:
    await rig.serve(answers(response()))
    reader, writer = await rig.connect()
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * engine.LONGEST_HEAD)
    async with asyncio.timeout(PATIENCE):
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_floods_us_ahead_of_the_answer_is_cut_off(rig: Rig) -> None:
    await rig.serve(answers(b"", then_close=False))
    reader, writer = await rig.connect()
    writer.write(get() + b"x" * 2 * engine.LONGEST_AHEAD)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_two_requests_at_once_are_answered_in_turn(rig: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(response(head.split()[1]))
        writer.close()

    await rig.serve(serve)
    first = get("/one").replace(b"Connection: close\r\n", b"")
    answer = await rig.ask(first + get("/two"))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.index(b"/one") < answer.index(b"/two")


async def test_bytes_that_are_no_request_get_a_bare_refusal(rig: Rig) -> None:
    await rig.serve(answers(response()))
    answer = await rig.ask(b"GET  / HTTP/9.9\r\n<script>\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"mitm" not in answer.lower()
    assert b"script" not in answer


async def test_a_silent_server_is_given_up_and_said_to_be_silent(impatient: Rig) -> None:
    await impatient.serve(answers(b"", then_close=False))
    assert (await impatient.ask(get())).startswith(b"HTTP/1.1 504 ")
    assert "origin_timeout" in (await impatient.event("web.failed")).remedy


async def test_a_slow_server_is_not_a_silent_one(impatient: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in response(b"fine"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        writer.close()

    await impatient.serve(serve)
    assert (await impatient.ask(get())).endswith(b"fine")
