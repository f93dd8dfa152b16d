"""Tasks that work side by side for as long as something lasts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

type Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


@asynccontextmanager
async def crew() -> AsyncIterator[Start]:
    """Run tasks until the block ends. One that fails ends the block with its error."""
    async with asyncio.TaskGroup() as tasks:
        running: list[asyncio.Task[None]] = []

        def start(what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            running.append(tasks.create_task(what))
            return running[-1]

        try:
            yield start
        finally:
            for each in running:
                each.cancel()
