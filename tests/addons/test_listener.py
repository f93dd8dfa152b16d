"""Which connections are served, and what becomes of the others."""

import asyncio
import socket

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


async def test_an_owner_that_cannot_be_told_costs_the_connection_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.serve(answers(response()))

    async def broken(client: object, wanted: object) -> tuple[int | None, Container | None]:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(rig.instance, "_owner", broken)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        assert await rig.ask(get()) == b""
    assert b" 200 " in await rig.ask(get())
