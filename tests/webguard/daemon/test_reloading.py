"""Other settings: everywhere, or nowhere."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from tests.webguard.daemon.test_workers import Rig
from webguard.daemon.material import Material
from webguard.daemon.reloading import put_in_force
from webguard.errors import HostError
from webguard.policy.config import Config, Web
from webguard.policy.decide import Policy

if TYPE_CHECKING:
    from webguard.daemon.supervisor import Supervisor


def material(generation: int, **web: object) -> Material:
    config = Config(web=Web.model_validate(web))
    return Material(config=config, policy=Policy(generation=generation), rules=b"")


def refuse(_config: Config, _selftest: object) -> None:
    raise HostError("load", "the kernel says no", "none")


def daemon(rig: Rig) -> "Supervisor":
    """What a reload needs of a daemon with one worker, whose kernel refuses other ports."""
    made = SimpleNamespace(
        material=(old := material(1)),
        config=old.config,
        paths=SimpleNamespace(config=Path("webguard.yaml")),
        workers=[rig.worker],
        inherited=lambda _: rig.generation("two"),
        interception=SimpleNamespace(change_ports=refuse),
        own_cgroup=None,
        selftest=SimpleNamespace(port=80),
    )
    return cast("Supervisor", made)


async def test_what_the_kernel_refuses_is_nowhere_in_force_and_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.worker._stopping = True  # a worker that is starting takes what it is given at once
    supervisor = daemon(rig)
    before = rig.worker.inherited

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.worker.keep())
        with pytest.raises(HostError, match="the kernel says no"):
            await put_in_force(supervisor, material(2, ports=[8080]))
        rig.end()

    assert rig.worker.inherited is before
    assert (supervisor.selftest.port, supervisor.material.policy.generation) == (80, 1)
    refused = rig.made.pop()
    for descriptor in (refused.settings, refused.rules, refused.roots):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    rig.close()
