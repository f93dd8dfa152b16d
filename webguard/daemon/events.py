"""The record over the control socket: a line an event, in the format that was asked for."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from webguard.model import Event
from webguard.store.eset import eset12, eset13
from webguard.store.lines import as_object
from webguard.store.record import Store

_PAGE = 256
_LONGEST_WAIT = 30.0


class Wanted(BaseModel):
    """What a reader asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["json", "eset12", "eset13"] = "json"
    follow: bool = False
    limit: int = Field(default=100, ge=0, le=1_000_000)
    kind: tuple[str, ...] = Field(default=(), max_length=64)
    container: str = Field(default="", max_length=200)


class Followers:
    """Who waits for events. When the daemon stops they are sent what there is, and end."""

    def __init__(self) -> None:
        self.ending = False
        self._waiting: set[asyncio.Event] = set()

    def end(self) -> None:
        """Have everybody finish."""
        self.ending = True
        for each in self._waiting:
            each.set()

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """Yield what is set when there may be something to do."""
        ready = asyncio.Event()
        self._waiting.add(ready)
        try:
            yield ready
        finally:
            self._waiting.discard(ready)


def json_line(event: Event) -> str:
    """Return the documented record as one line."""
    return json.dumps(as_object(event), ensure_ascii=False, separators=(",", ":"))


_FORMATS: Mapping[str, Callable[[Event], str]] = {
    "json": json_line,
    "eset12": eset12,
    "eset13": eset13,
}


async def send(
    store: Store, wanted: Wanted, request: web.Request, followers: Followers
) -> web.StreamResponse:
    """Send what is recorded, and if it is to be followed what happens, until either side goes."""
    written = _FORMATS[wanted.format]
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    with (
        followers.waiting() as ready,
        store.follow(
            kinds=wanted.kind,
            container=wanted.container,
            wake=lambda: loop.call_soon_threadsafe(ready.set),
        ) as follower,
    ):
        recorded = store.events(
            kinds=wanted.kind,
            container=wanted.container,
            limit=wanted.limit,
            until=follower.start,
        )
        while page := await asyncio.to_thread(_page, recorded):
            await response.write(_lines(page, written))
        while wanted.follow and request.transport is not None:
            ready.clear()
            if found := follower.take():
                await response.write(_lines(found, written))
                continue
            if followers.ending:
                break
            try:
                async with asyncio.timeout(_LONGEST_WAIT):
                    await ready.wait()
            except TimeoutError:
                continue
    await response.write_eof()
    return response


def _page(recorded: Iterator[Event]) -> list[Event]:
    return list(islice(recorded, _PAGE))


def _lines(events: list[Event], written: Callable[[Event], str]) -> bytes:
    return "".join(written(each).rstrip("\r\n") + "\n" for each in events).encode(
        "utf-8", "backslashreplace"
    )
