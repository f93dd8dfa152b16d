"""Whatever happens behind the control socket, the command line gets an answer it understands."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from webguard.cli.ask import ask
from webguard.daemon import control
from webguard.daemon.control import Reason
from webguard.errors import ConfigError, HostError, RefusedError, WebguardError


@pytest.fixture
async def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A control socket whose every question ends as its path says."""
    monkeypatch.setattr(control, "_may", lambda _uid, _gid: True)
    app = web.Application(middlewares=[control._guarded])
    app.add_routes([web.get("/{error}", _fail)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    yield tmp_path / "s"
    await runner.cleanup()


async def _fail(request: web.Request) -> web.StreamResponse:
    if request.match_info["error"] == "bug":
        raise ZeroDivisionError
    if request.match_info["error"] == "host":
        raise HostError("try", "no", "do this")
    Reason.model_validate({"reason": "x" * 1001})
    return web.Response()


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        pytest.param("/bug", RefusedError, "see the daemon's log", id="a bug"),
        pytest.param("/host", RefusedError, r"try: no \(do this\)", id="an error of ours"),
        pytest.param("/values", ConfigError, "reason: .*1000 characters", id="a bad value"),
        pytest.param("/no/such", RefusedError, "Not Found", id="an unknown request"),
    ],
)
async def test_every_error_is_an_answer(
    serve: Path, path: str, kind: type[WebguardError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        await asyncio.to_thread(ask, serve, path)


async def test_a_bug_is_in_the_log(serve: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RefusedError):
        await asyncio.to_thread(ask, serve, "/bug")
    assert "ZeroDivisionError" in caplog.text


def test_a_dead_daemons_socket_is_replaced_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "OPERATORS", "nobody is in this group")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with control._listen(tmp_path / "s"):
        assert str(tmp_path / "s") in caplog.text
