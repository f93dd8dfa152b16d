"""Ask a Docker engine, by its HTTP API on a unix socket, what it knows.

Podman answers nearly the same questions: see `podman`.

The engine is ours to trust, its answers are not: names, labels and images are
text that whoever starts containers chose. So answers are bounded, and only the
few fields we use are looked at.

An engine that is not there is no error: `list_containers` and `inspect` return
None, `events` ends. One that is there and hangs, or answers nonsense, is a
`HostError`. No connection is kept, so a restart of the engine needs no care.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, ClassVar

import aiohttp
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from webguard.errors import HostError

_MAX_ANSWER = 8 * 1024**2
_MAX_LINE = 1024**2  # of the event stream; each repeats the container's labels
_FULL_ID = re.compile(r"[0-9a-f]{64}")


def _empty(value: object) -> object:
    """Take Go's null for the empty list or map that it stands for."""
    return () if value is None else value


def _mapping(value: object) -> object:
    return {} if value is None else value


def _digest(value: object) -> object:
    """Give an image's id its algorithm, which Podman leaves out."""
    return f"sha256:{value}" if isinstance(value, str) and _FULL_ID.fullmatch(value) else value


type Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
type _Labels = Annotated[dict[str, str], BeforeValidator(_mapping)]
type _Digest = Annotated[str, BeforeValidator(_digest)]
type _Names = Annotated[tuple[str, ...], BeforeValidator(_empty)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Listed(_Answer):
    """A container as the list has it, running or not."""

    id: Id = Field(alias="Id")
    names: _Names = Field(default=(), alias="Names")
    image: str = Field(default="", alias="Image")
    image_id: _Digest = Field(default="", alias="ImageID")
    labels: _Labels = Field(default_factory=dict, alias="Labels")
    state: str = Field(default="", alias="State")
    pod: str = Field(default="", alias="Pod")  # full id; Podman only, as is the next
    pod_name: str = Field(default="", alias="PodName")


class _State(_Answer):
    status: str = Field(default="", alias="Status")
    pid: int = Field(default=0, alias="Pid")


class _Settings(_Answer):
    image: str = Field(default="", alias="Image")
    labels: _Labels = Field(default_factory=dict, alias="Labels")


class Inspected(_Answer):
    """A container as `inspect` has it."""

    id: Id = Field(alias="Id")
    name: str = Field(default="", alias="Name")
    image_id: _Digest = Field(default="", alias="Image")
    pod: str = Field(default="", alias="Pod")
    state: _State = Field(default=_State(), alias="State")
    settings: _Settings = Field(default=_Settings(), alias="Config")

    def listed(self) -> Listed:
        """Return the same facts in the list's shape."""
        return Listed(
            Id=self.id,
            Names=(self.name,) if self.name else (),
            Image=self.settings.image,
            ImageID=self.image_id,
            Labels=self.settings.labels,
            State=self.state.status,
            Pod=self.pod,
        )


class _Actor(_Answer):
    id: str = Field(default="", alias="ID")


class _Message(_Answer):
    action: str = Field(default="", alias="Action")
    actor: _Actor = Field(default=_Actor(), alias="Actor")


class RuntimeEvent(BaseModel):
    """Something happened to a container: `action` is the engine's own word for it."""

    model_config = ConfigDict(frozen=True)

    action: str
    id: Id


_LIST: TypeAdapter[tuple[Listed, ...]] = TypeAdapter(tuple[Listed, ...])


class Docker:
    """The engine behind one socket. Holds no connection."""

    runtime: ClassVar[str] = "docker"
    """What its containers' `Container.runtime` is."""

    _name: ClassVar[str] = "Docker"
    _list: ClassVar[str] = "/containers/json?all=1"
    _container: ClassVar[str] = "/containers/{}/json"
    # rename: names are how people ask for a container.
    _told: ClassVar[tuple[str, ...]] = ("start", "die", "destroy", "rename")
    _remedy: ClassVar[str] = (
        "see whether the engine is well: docker info; setting runtimes.docker names its socket"
    )

    def __init__(self, socket: str, *, timeout: float = 5) -> None:
        self._socket = socket
        self._timeout = timeout

    def absence(self) -> HostError:
        """Return what to say when there should be an engine and is none."""
        return self._error("look for it", "nobody listens there")

    async def list_containers(self) -> tuple[Listed, ...] | None:
        """Return all containers, running or not; None if there is no engine."""
        answer = await self._get(self._list, self._timeout)
        if answer is None:
            return None
        status, body = answer
        if status != 200:
            raise self._error("list containers", _answered(status, body))
        try:
            return _LIST.validate_json(body)
        except ValidationError as error:
            raise self._error("list containers", _nonsense(error)) from error

    async def inspect(self, id_: str, *, within: float | None = None) -> Inspected | None:
        """Return what the engine knows of the full id `id_`, or None.

        `within` seconds, if the usual time is too long for the caller.
        """
        if not _FULL_ID.fullmatch(id_):
            return None  # nothing else may become part of the request
        answer = await self._get(self._container.format(id_), within or self._timeout)
        if answer is None or answer[0] == 404:
            return None
        status, body = answer
        if status != 200:
            raise self._error("inspect a container", _answered(status, body))
        try:
            return Inspected.model_validate_json(body)
        except ValidationError as error:
            raise self._error("inspect a container", _nonsense(error)) from error

    async def events(
        self, listening: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[RuntimeEvent]:
        """Yield what happens from now on. Ends when the engine does, or is not there.

        `listening` is called when the engine has begun to tell: what happened
        before is not repeated, so that is when to call `Inventory.refresh`. The
        caller connects again, with a pause. Close it with `contextlib.aclosing`.
        An engine that hangs is not noticed here, since silence is normal:
        refresh now and then.
        """
        timeout = aiohttp.ClientTimeout(total=None)
        filters = json.dumps({"type": ["container"], "event": self._told})
        async with self._session(timeout) as session:
            try:
                async with asyncio.timeout(self._timeout):
                    response = await session.get(
                        "http://docker/events", params={"filters": filters}, allow_redirects=False
                    )
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self._absent_or_raise("watch events", error)
                return
            async with response:
                if response.status != 200:
                    body = await self._body(response, "watch events")
                    raise self._error("watch events", _answered(response.status, body))
                listening()
                async for line in self._lines(response):
                    if event := _event(line):
                        yield event

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        rest = b""
        try:
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_LINE:
                    raise self._error("watch events", f"one is larger than {_MAX_LINE} bytes")
                for line in lines:
                    yield line
        except (aiohttp.ClientError, OSError):
            return  # the engine was stopped in the middle of a line

    async def _get(self, path: str, within: float) -> tuple[int, bytes] | None:
        tried = f"GET {path.split('?')[0]}"
        try:
            async with (
                self._session(aiohttp.ClientTimeout(total=within)) as session,
                session.get(f"http://docker{path}", allow_redirects=False) as response,
            ):
                return response.status, await self._body(response, tried)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._absent_or_raise(tried, error)
            return None

    async def _body(self, response: aiohttp.ClientResponse, tried: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > _MAX_ANSWER:
                raise self._error(tried, f"the answer is larger than {_MAX_ANSWER} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def _session(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._socket, force_close=True),
            timeout=timeout,
            auto_decompress=False,  # we did not ask for it, and it would undo the bound
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _absent_or_raise(self, tried: str, error: Exception) -> None:
        """Return if there is no engine: no socket, or one that nobody listens at."""
        if isinstance(error, TimeoutError):
            raise self._error(tried, "it does not answer") from error
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if not isinstance(cause, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
            raise self._error(tried, str(error) or type(error).__name__) from error

    def _error(self, tried: str, answer: str) -> HostError:
        return HostError(f"{self._name} engine at {self._socket}: {tried}", answer, self._remedy)


def _event(line: bytes) -> RuntimeEvent | None:
    """Return the event of one line; None for one that is not of interest, or not an event."""
    try:
        message = _Message.model_validate_json(line)
        return RuntimeEvent(action=message.action[:32], id=message.actor.id)
    except ValidationError:
        return None


def _answered(status: int, body: bytes) -> str:
    return f"status {status}: {body[:200].decode('ascii', 'backslashreplace')!r}"


def _nonsense(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:64]
    return f"an answer we do not understand: {where}: {first['msg'][:200]}"
