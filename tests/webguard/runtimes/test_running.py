"""Containers as the kernel has them: real cgroups of our own, with real processes in them.

What makes a process a container's is its cgroup, so a `sleep` in a cgroup named
as a runtime would name it is one. Nothing here needs, or meets, an engine.
"""

import asyncio
from pathlib import Path

import pytest

from tests.webguard.runtimes.running import (
    UNSHARED,
    FakeEngine,
    Host,
    an_id,
    an_inventory,
    inode,
    next_tick,
    ours,
    start_time,
)
from webguard.errors import NotFoundError
from webguard.model import Container, Network
from webguard.runtimes import proc
from webguard.runtimes.docker import Listed
from webguard.runtimes.place import Layout

pytestmark = pytest.mark.system


async def test_a_container_is_found_with_all_that_the_kernel_knows(host: Host) -> None:
    id_ = an_id()
    group = host.group(f"/docker/{id_}")
    pid = host.start(group)
    inventory = an_inventory(host)

    await inventory.refresh()

    cgroup = inode(host.folder(group))
    expected = Container(
        runtime="docker",
        id=id_,
        started=start_time(pid),
        pid=pid,
        cgroups=(cgroup,),
        netns=proc.own_netns(),
        network=Network.HOST,
    )
    assert ours(inventory, id_) == [expected]
    assert inventory.by_cgroup(cgroup) == expected
    assert inventory.find(id_) == inventory.find(id_[:4]) == expected
    assert inventory.by_cgroup(inode(host.folder(host.parent))) is None


async def test_the_network_is_measured_against_our_own_namespace(host: Host) -> None:
    shared, private = an_id(), an_id()
    host.start(host.group(f"/{shared}"))
    host.start(host.group(f"/{private}"), UNSHARED)
    inventory = an_inventory(host)

    await inventory.refresh()

    assert inventory.find(shared).network is Network.HOST
    assert inventory.find(private).network is Network.PRIVATE
    assert inventory.find(private).netns not in (0, proc.own_netns())


async def test_a_container_in_anothers_network_is_what_that_one_is(host: Host) -> None:
    """What `--network container:<other>` makes, whatever an engine calls it."""
    owner, guest = an_id(), an_id()
    pid = host.start(host.group(f"/{owner}"), UNSHARED)
    enter = ("nsenter", f"--net=/proc/{pid}/ns/net", "sleep", "600")
    host.start(host.group(f"/{guest}"), enter)
    inventory = an_inventory(host)

    await inventory.refresh()

    assert inventory.find(guest).netns == inventory.find(owner).netns
    assert inventory.find(guest).network is Network.PRIVATE


async def test_the_first_process_is_the_oldest_also_of_sub_cgroups(host: Host) -> None:
    id_ = an_id()
    group = host.group(f"/{id_}")
    inner = host.group(f"/{id_}/init.scope")
    first = host.start(inner)
    next_tick()
    host.start(group)
    inventory = an_inventory(host)

    await inventory.refresh()

    (found,) = ours(inventory, id_)
    assert (found.pid, found.started) == (first, start_time(first))
    assert await an_inventory(host).resolve(inode(host.folder(inner)), inner) == found
    assert found.cgroups == (inode(host.folder(group)),)


async def test_an_empty_cgroup_is_no_container(host: Host) -> None:
    id_ = an_id()
    group = host.group(f"/{id_}")
    inventory = an_inventory(host)

    await inventory.refresh()

    assert ours(inventory, id_) == []
    assert await inventory.resolve(inode(host.folder(group)), group) is None


async def test_after_a_restart_the_old_run_is_gone(host: Host) -> None:
    id_ = an_id()
    group = host.group(f"/{id_}")
    pid = host.start(group)
    inventory = an_inventory(host)
    await inventory.refresh()
    before = inventory.find(id_)

    host.stop(pid)
    host.folder(group).rmdir()
    next_tick()
    host.start(host.group(f"/{id_}"))
    await inventory.refresh()

    after = inventory.find(id_)
    assert after.key != before.key
    assert after.cgroups != before.cgroups
    assert inventory.by_cgroup(before.cgroups[0]) is None


async def test_after_a_restart_resolving_the_new_run_ends_the_old_one(host: Host) -> None:
    id_ = an_id()
    group = host.group(f"/{id_}")
    pid = host.start(group)
    inventory = an_inventory(host)
    await inventory.refresh()
    before = inventory.find(id_)

    host.stop(pid)
    host.folder(group).rmdir()
    next_tick()
    host.start(host.group(f"/{id_}"))
    after = await inventory.resolve(inode(host.folder(group)), group)

    assert after is not None
    assert after.key != before.key
    assert ours(inventory, id_) == [after]
    assert inventory.by_cgroup(before.cgroups[0]) is None


async def test_a_container_that_ended_is_gone(host: Host) -> None:
    id_ = an_id()
    pid = host.start(host.group(f"/{id_}"))
    inventory = an_inventory(host)
    await inventory.refresh()

    host.stop(pid)
    await inventory.refresh()

    with pytest.raises(NotFoundError):
        inventory.find(id_)


@pytest.mark.parametrize("below", ["", "/a", "/a/b"], ids=["own", "below", "two below"])
async def test_a_container_nobody_told_us_of_is_resolved_by_its_cgroup(
    host: Host, below: str
) -> None:
    id_ = an_id()
    group = host.group(f"/{id_}")
    asking = host.group(f"/{id_}{below}") if below else group
    pid = host.start(asking)
    engine = FakeEngine(Listed(Id=id_, Names=("/shop",), Image="debian:12"), listing=False)
    inventory = an_inventory(host, engine)

    found = await inventory.resolve(inode(host.folder(asking)), asking.lstrip("/"))

    assert found is not None
    assert (found.runtime, found.id, found.started) == ("docker", id_, start_time(pid))
    assert (found.pid, found.name, found.image) == (pid, "shop", "debian:12")
    assert found.cgroups == (inode(host.folder(group)),)
    assert inventory.by_cgroup(inode(host.folder(group))) == found
    # The second time nobody needs to be asked.
    assert await inventory.resolve(inode(host.folder(asking)), asking) == found
    assert engine.asked == [id_]


async def test_a_hostile_sub_cgroup_cannot_pass_for_another_container(host: Host) -> None:
    victim, attacker = an_id(), an_id()
    host.start(host.group(f"/{victim}"))
    forged = host.group(f"/{attacker}/docker/{victim}")
    host.start(forged)
    inventory = an_inventory(host)

    found = await inventory.resolve(inode(host.folder(forged)), forged)
    await inventory.refresh()

    assert found is not None
    assert found.id == attacker
    assert inventory.find(victim).cgroups == (inode(host.folder(f"{host.parent}/{victim}")),)


async def test_a_path_that_is_somebody_elses_by_now_is_resolved_to_none(host: Host) -> None:
    group = host.group(f"/{an_id()}")
    host.start(group)

    assert await an_inventory(host).resolve(inode(host.folder(group)) + 1, group) is None


async def test_an_engine_adds_names_and_the_kernel_decides_who_runs(host: Host) -> None:
    running, stopped = an_id(), an_id()
    host.start(host.group(f"/{running}"))
    labels = {
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.name": "cart-1",
        "x\ud800": "y" * 5000,
    }
    engine = FakeEngine(
        Listed(
            Id=running,
            Names=("/web/db", "/db"),
            Image="i",
            ImageID="sha256:1",
            Labels=labels,
            # The engine was killed and has not noticed; the kernel has.
            State="exited",
        ),
        Listed(Id=stopped, Names=("/gone",), State="running"),
    )
    inventory = an_inventory(host, engine)

    await inventory.refresh()

    found = inventory.find("db")
    assert found == inventory.find("web/db")
    assert (found.runtime, found.id, found.name) == ("docker", running, "db")
    assert (found.image, found.image_digest, found.pod) == ("i", "sha256:1", "shop/cart-1")
    assert dict(found.labels)["x?"] == "y" * 1024
    assert ours(inventory, stopped) == []


async def test_a_container_that_starts_behind_the_walk_is_not_lost(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = host.group(f"/{an_id()}")
    inventory = an_inventory(host)
    loop, walk = asyncio.get_running_loop(), proc.containers

    def walk_and_then_start(root: Path, own: int, layout: Layout) -> tuple[proc.Seen, ...]:
        seen = walk(root, own, layout)
        host.start(group)
        resolving = inventory.resolve(inode(host.folder(group)), group)
        asyncio.run_coroutine_threadsafe(resolving, loop).result(30)
        return seen

    monkeypatch.setattr(proc, "containers", walk_and_then_start)
    await inventory.refresh()

    assert inventory.by_cgroup(inode(host.folder(group))) is not None


async def test_a_flood_of_sub_cgroups_does_not_hide_the_first_process(host: Host) -> None:
    id_ = an_id()
    group = host.group(f"/{id_}")
    pid = host.start(group)
    for number in range(1500):
        host.group(f"/{id_}/{number}")

    found = await an_inventory(host).resolve(inode(host.folder(group)), group)

    assert found is not None
    assert found.pid == pid
