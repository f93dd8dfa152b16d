"""What the service manager's watchdog is told: that measuring goes on, whatever is measured."""

import asyncio
import contextlib
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from webguard.daemon.health import Health
from webguard.daemon.protection import Protection


class Probes:
    """A self-test of which every probe is answered in the same way, or never."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.asked = 0
        self.enough = asyncio.Event()

    async def probe(self, _family: str) -> str:
        self.asked += 1
        if self.asked > 2 or self.answer is None:  # of a turn there are two
            self.enough.set()
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer or ""


async def heard(probes: Probes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What the service manager hears during the first turns."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        interception: Any = SimpleNamespace(
            kernel=SimpleNamespace(redirect=SimpleNamespace(instance="webguard", proxy_port=1)),
            withheld=False,
        )
        selftest: Any = probes
        own_cgroup: Any = None
        health = Health(
            interception=interception,
            selftest=selftest,
            own_cgroup=own_cgroup,
            protection=Protection(expected_workers=1, live=True),
            workers=(),
            tell=lambda *_, **__: None,
        )
        probing = asyncio.ensure_future(health.keep_probing())
        async with asyncio.timeout(20):
            await probes.enough.wait()
        probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probing
        with contextlib.suppress(BlockingIOError):
            return manager.recv(100)
        return b""


@pytest.mark.parametrize("answer", ["", "no answer"], ids=["protected", "not protected"])
async def test_a_daemon_that_measures_says_so(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await heard(Probes(answer), tmp_path, monkeypatch) == b"WATCHDOG=1"


async def test_one_whose_probes_hang_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await heard(Probes(None), tmp_path, monkeypatch) == b""
