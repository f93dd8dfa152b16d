"""A Docker engine, played by a real HTTP server on a real unix socket."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from webguard.errors import HostError
from webguard.runtimes.docker import Docker, RuntimeEvent, _event

pytestmark = pytest.mark.slow

ID = "0123456789abcdef" * 4
OTHER = "f" * 64

# The shape of Docker 20.10's answers, shortened where nothing is read.
LISTED = {
    "Id": ID,
    "Names": ["/shop", "/web/db"],
    "Image": "debian:12",
    "ImageID": "sha256:" + "a" * 64,
    "Command": "sleep inf",
    "Created": 1700000000,
    "Ports": [],
    "Labels": {"io.kubernetes.pod.name": "p"},
    "State": "running",
    "Status": "Up 2 minutes",
    "HostConfig": {"NetworkMode": "host"},
    "NetworkSettings": {"Networks": {"host": {"IPAMConfig": None, "Links": None}}},
    "Mounts": [],
}
INSPECTED = {
    "Id": ID,
    "Created": "2026-11-21T18:00:00.123456789Z",
    "Path": "sleep",
    "State": {"Status": "running", "Running": True, "Pid": 4711, "ExitCode": 0},
    "Image": "sha256:" + "a" * 64,
    "Name": "/shop",
    "HostConfig": {"NetworkMode": "host", "Links": None},
    "Config": {"Hostname": "h", "Image": "debian:12", "Labels": {"a": "b"}, "Env": ["X=1"]},
}
STARTED = {"status": "start", "Type": "container", "Action": "start", "Actor": {"ID": ID}}

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def an_engine(tmp_path: Path, handler: Handler) -> AsyncIterator[Docker]:
    """Serve every path with `handler`; yield the client, which waits as long as it makes sense."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    path = str(tmp_path / "docker.sock")
    try:
        await web.UnixSite(runner, path).start()
        yield Docker(path, timeout=0.2 if handler in (hang, hang_in_the_body) else 30)
    finally:
        await runner.cleanup()


def answer(body: object, status: int = 200) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=raw, status=status, content_type="application/json")

    return handle


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def hang_in_the_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"[")
    await asyncio.sleep(60)
    return response


async def flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b" " * 65536)
    return response


async def redirect(request: web.Request) -> web.StreamResponse:
    if request.path == "/elsewhere":
        return await answer([])(request)
    raise web.HTTPFound("/elsewhere")


async def close_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"[")
    assert request.transport is not None
    request.transport.abort()
    return response


async def test_containers_are_listed(tmp_path: Path) -> None:
    stopped = {"Id": OTHER, "Names": None, "Labels": None, "State": "exited"}

    async with an_engine(tmp_path, answer([LISTED, stopped])) as engine:
        listed = await engine.list_containers()

    assert listed is not None
    first, second = listed
    assert (first.id, first.names, first.image) == (ID, ("/shop", "/web/db"), "debian:12")
    assert (first.image_id, first.state) == ("sha256:" + "a" * 64, "running")
    assert first.labels == {"io.kubernetes.pod.name": "p"}
    assert (second.id, second.names, second.labels) == (OTHER, (), {})


async def test_stopped_containers_are_asked_for_as_well(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        return await answer([])(request)

    async with an_engine(tmp_path, handle) as engine:
        assert await engine.list_containers() == ()
    assert asked == ["/containers/json?all=1"]


async def test_a_container_is_inspected(tmp_path: Path) -> None:
    async with an_engine(tmp_path, answer(INSPECTED)) as engine:
        inspected = await engine.inspect(ID)

    assert inspected is not None
    assert inspected.state.pid == 4711
    listed = inspected.listed()
    assert (listed.id, listed.names, listed.image) == (ID, ("/shop",), "debian:12")
    assert (listed.labels, listed.state) == ({"a": "b"}, "running")


async def test_an_unknown_container_is_none(tmp_path: Path) -> None:
    async with an_engine(tmp_path, answer({"message": "No such container"}, 404)) as engine:
        assert await engine.inspect(ID) is None


@pytest.mark.parametrize("id_", ["", "../info", "a" * 63, ID.upper(), ID + "\n", "a" * 63 + "/"])
async def test_only_a_full_id_becomes_part_of_a_request(tmp_path: Path, id_: str) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        return await answer(INSPECTED)(request)

    async with an_engine(tmp_path, handle) as engine:
        assert await engine.inspect(id_) is None
    assert asked == []


@pytest.mark.parametrize("place", ["none", "left", "file", "below a file"])
async def test_an_engine_that_is_not_there_is_no_error(tmp_path: Path, place: str) -> None:
    path = tmp_path / "docker.sock"
    if place == "left":  # behind by an engine that was killed
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    if place in ("file", "below a file"):
        path.touch()
    engine = Docker(str(path / "x" if place == "below a file" else path))

    assert await engine.list_containers() is None
    assert await engine.inspect(ID) is None
    assert [event async for event in engine.events()] == []


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        pytest.param(hang, "does not answer", id="hangs"),
        pytest.param(hang_in_the_body, "does not answer", id="hangs in the body"),
        pytest.param(flood, "larger than", id="floods"),
        pytest.param(close_in_the_middle, "Docker engine", id="closes in the middle"),
        pytest.param(answer(b"\xff\0garbage"), "do not understand", id="garbage"),
        pytest.param(answer({"a": 1}), "do not understand", id="another shape"),
        pytest.param(answer([{"Id": "../x"}]), "do not understand", id="a bad id"),
        pytest.param(answer([{"Id": ID, "Names": 5}]), "do not understand", id="a bad name"),
        pytest.param(answer(b"[" * 100_000), "do not understand", id="nested"),
        pytest.param(answer(b"\x1b[2Jno", 500), "status 500", id="an error"),
        pytest.param(redirect, "status 302", id="a redirect"),
    ],
)
async def test_an_engine_that_is_not_well_is_an_error_with_a_remedy(
    tmp_path: Path, handler: Handler, said: str
) -> None:
    async with an_engine(tmp_path, handler) as engine:
        with pytest.raises(HostError) as listing:
            await engine.list_containers()
        with pytest.raises(HostError):
            await engine.inspect(ID)

    assert said in str(listing.value)
    assert "runtimes.docker" in str(listing.value)
    assert "\x1b" not in str(listing.value)
    assert len(str(listing.value)) < 1000


async def test_an_inspection_can_be_given_less_time(tmp_path: Path) -> None:
    async with an_engine(tmp_path, hang):
        patient = Docker(str(tmp_path / "docker.sock"), timeout=3600)
        with pytest.raises(HostError, match="does not answer"):
            await patient.inspect(ID, within=0.05)


async def test_an_engine_that_came_back_is_used_again(tmp_path: Path) -> None:
    async with an_engine(tmp_path, answer([])) as engine:
        assert await engine.list_containers() == ()
    assert await engine.list_containers() is None
    async with an_engine(tmp_path, answer([])):
        assert await engine.list_containers() == ()


def stream(*chunks: bytes, then_hang: bool = False) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then_hang:
            await asyncio.sleep(60)
        return response

    return handle


async def test_events_are_followed_across_chunks_until_the_engine_ends(tmp_path: Path) -> None:
    line = json.dumps(STARTED).encode() + b"\n"
    died = json.dumps({**STARTED, "Action": "die"}).encode() + b"\n"
    noise = b'not json\n\n{"Action": "start", "Actor": {"ID": "short"}}\n[]\n'

    async with an_engine(tmp_path, stream(line[:9], line[9:] + died, noise, line)) as engine:
        events = [event async for event in engine.events()]

    assert events == [RuntimeEvent(action=action, id=ID) for action in ("start", "die", "start")]


async def test_an_event_is_given_at_once_and_watching_can_stop(tmp_path: Path) -> None:
    line = json.dumps(STARTED).encode() + b"\n"

    async with (
        asyncio.timeout(30),
        an_engine(tmp_path, stream(line, then_hang=True)) as engine,
        aclosing(engine.events()) as events,
    ):
        assert await anext(events) == RuntimeEvent(action="start", id=ID)


async def test_the_caller_is_told_when_the_engine_begins_to_tell(tmp_path: Path) -> None:
    told: list[str] = []

    async with an_engine(tmp_path, stream()) as engine:
        assert [event async for event in engine.events(lambda: told.append("listening"))] == []
    assert told == ["listening"]
    absent = Docker(str(tmp_path / "nobody.sock"))
    assert [event async for event in absent.events(lambda: told.append("absent"))] == []
    assert told == ["listening"]


async def test_events_of_an_engine_that_dies_end_quietly(tmp_path: Path) -> None:
    async with an_engine(tmp_path, close_in_the_middle) as engine:
        assert [event async for event in engine.events()] == []


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        pytest.param(hang, "does not answer", id="hangs"),
        pytest.param(flood, "larger than", id="a line without end"),
        pytest.param(answer({"message": "no"}, 400), "status 400", id="an error"),
    ],
)
async def test_events_of_an_engine_that_is_not_well_are_an_error(
    tmp_path: Path, handler: Handler, said: str
) -> None:
    async with an_engine(tmp_path, handler) as engine:
        with pytest.raises(HostError, match=said):
            assert [event async for event in engine.events()] == []


@given(
    st.binary(max_size=200) | st.text('{}[]":,ActionActorIDstart01\\u', max_size=80).map(str.encode)
)
def test_any_line_is_an_event_or_nothing(line: bytes) -> None:
    event = _event(line)

    assert event is None or len(event.id) == 64
