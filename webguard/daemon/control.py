"""The control socket: HTTP and JSON over a unix socket, for operators only.

Who may talk is decided twice: by the socket's mode (0660, group `webguard`) and
by the peer's credentials, because a mode is one chmod away from being wrong.
Answers are what the daemon measured; nothing is parsed here but small JSON.
"""

import contextlib
import grp
import logging
import os
import pwd
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from webguard.daemon import certificates, events, policies, report
from webguard.daemon.paths import OPERATORS
from webguard.daemon.sockets import make_room
from webguard.daemon.supervisor import Supervisor
from webguard.errors import HostError, WebguardError

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("=iII")
_LARGEST = 256 * 1024
# Whoever does not take an answer within so many seconds of our end does without. aiohttp
# waits this long twice, and containers may be shut off meanwhile.
_LAST_ANSWERS = 1.0

type _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Targets(BaseModel):
    """Which containers a request is about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    containers: tuple[str, ...] = Field(default=(), max_length=1000)
    all: bool = False


class Reason(BaseModel):
    """Why isolation is switched on, or off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(default="", max_length=1000)


class One(BaseModel):
    """One container, or ("") all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    container: str = Field(default="", max_length=300)


class Files(BaseModel):
    """Which settings file, "" for the daemon's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str = Field(default="", max_length=4096)

    @property
    def path(self) -> Path | None:
        """The file, None for the daemon's own."""
        return Path(self.config) if self.config else None


@asynccontextmanager
async def serve(supervisor: Supervisor) -> AsyncIterator[None]:
    """Serve the control socket while the block runs."""
    app = web.Application(middlewares=[_guarded], client_max_size=_LARGEST)
    app[_SUPERVISOR] = supervisor
    app[_FOLLOWERS] = followers = events.Followers()
    app.add_routes(
        [
            web.get("/v1/status", _status),
            web.get("/v1/containers", _containers),
            web.get("/v1/events", _events),
            web.get("/v1/isolation", _isolation),
            web.post("/v1/isolation/on", _isolation_on),
            web.post("/v1/isolation/off", _isolation_off),
            web.post("/v1/policy/show", _policy_show),
            web.post("/v1/policy/diff", _policy_diff),
            web.post("/v1/policy/reload", _policy_reload),
            web.post("/v1/cert/{deed:install|remove|status}", _certificates),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS)
    await runner.setup()
    path = supervisor.paths.control
    listening = _listen(path)
    bound = path.stat().st_ino
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        followers.end()
        await runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == bound:  # else it is a successor's
                path.unlink()


_SUPERVISOR: web.AppKey[Supervisor] = web.AppKey("supervisor")
_FOLLOWERS: web.AppKey[events.Followers] = web.AppKey("followers")


def _listen(path: Path) -> socket.socket:
    """Bind the socket where nobody else can connect before its mode is right."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        make_room(path)  # we hold the instance's lock
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        with contextlib.suppress(KeyError):  # no such group: root alone
            os.chown(path, 0, grp.getgrnam(OPERATORS).gr_gid)
            path.chmod(0o660)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise HostError(
            f"open the control socket {path}", str(error), "is there room on its file system?"
        ) from error
    return listening


def _may(uid: int, gid: int) -> bool:
    """Return whether this user is root or an operator."""
    if uid == 0:
        return True
    try:
        operators = grp.getgrnam(OPERATORS)
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return False
    return gid == operators.gr_gid or name in operators.gr_mem


@web.middleware
async def _guarded(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Let operators in, and nobody else."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None:
        return _refused(77, "the caller has gone")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, gid = _CREDENTIALS.unpack(credentials)
    if not _may(uid, gid):
        return _refused(77, f"user {uid} may not control webguard (usermod -aG {OPERATORS} <user>)")
    return await _answered(request, handler)


async def _answered(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turn every error into an answer that the command line understands."""
    try:
        return await handler(request)
    except WebguardError as error:
        return _refused(error.exit_code, str(error))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(each) for each in first["loc"])
        return _refused(2, f"not a request of ours: {where}: {first['msg']}")
    except web.HTTPException as error:
        return _refused(1, f"not a request of ours: {error.reason}")
    except ConnectionError:
        raise  # the caller has gone: there is nobody to answer
    except Exception:  # a bug: without an answer the caller would think that no daemon is there
        log.exception("answering %s failed", request.path)
        return _refused(1, "the daemon failed at this (see the daemon's log)")


def _refused(code: int, message: str) -> web.Response:
    return web.json_response({"exit_code": code, "error": message}, status=400)


async def _status(request: web.Request) -> web.Response:
    return web.json_response(report.status(request.app[_SUPERVISOR]))


async def _containers(request: web.Request) -> web.Response:
    supervisor = request.app[_SUPERVISOR]
    await supervisor.interception.refresh()
    return web.json_response({"containers": report.containers(supervisor)})


async def _certificates(request: web.Request) -> web.Response:
    targets = Targets.model_validate_json(await request.read())
    supervisor = request.app[_SUPERVISOR]
    await supervisor.interception.refresh()
    answer: dict[str, Any] = await certificates.do(
        supervisor, request.match_info["deed"], targets.containers, everything=targets.all
    )
    return web.json_response(answer)


async def _events(request: web.Request) -> web.StreamResponse:
    asked: dict[str, Any] = {**request.query}
    asked["kind"] = tuple(request.query.getall("kind", ()))
    wanted = events.Wanted.model_validate(asked)
    store = request.app[_SUPERVISOR].store
    return await events.send(store, wanted, request, request.app[_FOLLOWERS])


async def _policy_show(request: web.Request) -> web.Response:
    asked = One.model_validate_json(await request.read())
    supervisor = request.app[_SUPERVISOR]
    await supervisor.interception.refresh()
    return web.json_response(policies.show(supervisor, asked.container))


async def _policy_diff(request: web.Request) -> web.Response:
    asked = Files.model_validate_json(await request.read())
    return web.json_response(await policies.diff(request.app[_SUPERVISOR], asked.path))


async def _policy_reload(request: web.Request) -> web.Response:
    asked = Files.model_validate_json(await request.read())
    return web.json_response(await policies.reload(request.app[_SUPERVISOR], asked.path))


async def _isolation(request: web.Request) -> web.Response:
    return web.json_response(request.app[_SUPERVISOR].isolating.status())


async def _isolation_on(request: web.Request) -> web.Response:
    asked = Reason.model_validate_json(await request.read())
    supervisor = request.app[_SUPERVISOR]
    settings = supervisor.config.isolation
    answer = supervisor.isolating.on(settings, who=_who(request), reason=asked.reason)
    return web.json_response(answer)


async def _isolation_off(request: web.Request) -> web.Response:
    asked = Reason.model_validate_json(await request.read())
    isolating = request.app[_SUPERVISOR].isolating
    return web.json_response(isolating.off(who=_who(request), reason=asked.reason))


def _who(request: web.Request) -> str:
    """Return the name of the user who asks, from the socket's credentials."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None:
        return "somebody who has gone"
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(credentials)[1]
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
