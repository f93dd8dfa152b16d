"""Which connections are served, and what becomes of the others."""

import asyncio
import socket
from dataclasses import replace

import pytest
from mitmproxy import platform

from tests.addons.rig import PATIENCE, Rig, answers, get, response
from webguard.model import Container


async def expect_reset(rig: Rig) -> None:
    """Raise `ConnectionResetError`; a mere end would say that there is a server."""
    reader, _ = await rig.connect()
    async with asyncio.timeout(PATIENCE):
        await reader.read()


async def test_a_redirected_connection_is_served_and_its_owner_known(
    rig: Rig, a_container: Container
) -> None:
    rig.container = a_container
    await rig.serve(answers(response()))
    assert b" 200 " in await rig.ask(get())
    (event,) = rig.recorded
    assert event.container == a_container
    assert event.http is not None
    assert event.http.server == f"127.0.0.1:{rig.wanted[1]}"
    assert rig.instance.counters.served == 1


@pytest.mark.parametrize("known", [True, False], ids=["our own port", "no entry of the tracker"])
async def test_a_connection_made_to_our_port_is_reset(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    def gone(accepted: socket.socket) -> tuple[str, int]:
        raise FileNotFoundError

    rig.wanted = ("127.0.0.1", rig.port)
    if not known:
        monkeypatch.setattr(platform.linux, "original_addr", gone)
    with pytest.raises(ConnectionResetError):
        await expect_reset(rig)
    counters = rig.instance.counters
    assert (counters.direct, counters.served, counters.probes) == (1, 0, 0)


async def test_a_probe_is_reported_and_reset(rig: Rig) -> None:
    rig.cgroup = 1
    with pytest.raises(ConnectionResetError):
        await expect_reset(rig)
    counters = rig.instance.counters
    assert (counters.direct, counters.served, counters.probes) == (0, 0, 1)


async def test_another_daemons_probe_is_closed_and_not_served(
    rig: Rig, a_container: Container
) -> None:
    await rig.serve(answers(response()))
    rig.cgroup = 2
    assert await rig.ask(get()) == b""  # an end, and no reset
    rig.container = a_container
    assert b" 200 " in await rig.ask(get())  # a container that asks there is inspected


async def test_what_was_accepted_before_the_end_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nobody knows yet whose it is."""
    asked, told = asyncio.Event(), asyncio.Event()

    async def slow(client: object, wanted: object) -> tuple[int | None, Container | None]:
        asked.set()
        await told.wait()
        return None, None

    await rig.serve(answers(response()))
    monkeypatch.setattr(rig.instance, "_asking", replace(rig.instance._asking, owner=slow))
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(rig.ask(get()))
        await asked.wait()
        draining = tasks.create_task(rig.serving.drain(rig.instance, PATIENCE))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not draining.done()
        told.set()
    assert b" 200 " in asking.result()


async def test_what_is_accepted_in_the_very_moment_of_the_end_is_served(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, draining = socket.socket.accept, asyncio.Event()

    def then_end(listening: socket.socket) -> tuple[socket.socket, object]:
        accepted = accept(listening)
        if listening.getsockname()[1] == rig.port and not draining.is_set():
            draining.set()
            tasks.create_task(rig.serving.drain(rig.instance, PATIENCE))
        return accepted

    await rig.serve(answers(response()))
    monkeypatch.setattr(socket.socket, "accept", then_end)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        assert b" 200 " in await rig.ask(get())
    assert draining.is_set()


async def test_an_owner_that_cannot_be_told_costs_the_connection_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.serve(answers(response()))

    async def broken(client: object, wanted: object) -> tuple[int | None, Container | None]:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(rig.instance, "_asking", replace(rig.instance._asking, owner=broken))
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        assert await rig.ask(get()) == b""
    assert b" 200 " in await rig.ask(get())


async def test_a_connection_is_looked_at_before_its_owner_is_asked_for(rig: Rig) -> None:
    await rig.serve(answers(response()))
    rig.look_up.clear()
    _, writer = await rig.connect()
    async with asyncio.timeout(PATIENCE):
        while not rig.instance.open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert rig.looked == [(writer.get_extra_info("sockname"), rig.wanted)]
    rig.look_up.set()
