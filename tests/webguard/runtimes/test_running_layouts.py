"""Which cgroups are containers, and whose: parents, pods and engines, on real cgroups.

What makes a process a container's is its cgroup, so a `sleep` in a cgroup named
as a runtime would name it is one. Nothing here needs, or meets, an engine.
"""

import pytest

from tests.webguard.runtimes.running import (
    UNSHARED,
    FakeEngine,
    FakePodman,
    Host,
    an_id,
    an_inventory,
    inode,
    next_tick,
    ours,
)
from webguard.errors import NotFoundError
from webguard.runtimes.docker import Listed
from webguard.runtimes.podman import Podman

pytestmark = pytest.mark.system


async def test_one_id_below_two_parents_is_one_container(host: Host) -> None:
    id_ = an_id()
    groups = [host.group(f"/{parent}/{id_}") for parent in ("a", "b")]
    first = host.start(groups[1])
    next_tick()
    host.start(groups[0])
    inventory = an_inventory(host)

    await inventory.refresh()

    (found,) = ours(inventory, id_)
    assert found.pid == first
    assert set(found.cgroups) == {inode(host.folder(group)) for group in groups}
    for group in groups:
        assert inventory.by_cgroup(inode(host.folder(group))) == found


@pytest.mark.parametrize("below", ["", "/inner", f"/{'f' * 64}"], ids=["own", "below", "forged"])
async def test_below_a_listed_parent_a_container_may_have_any_name(host: Host, below: str) -> None:
    """What plain runc makes when it is told a cgroup's path."""
    group = host.group("/shop_1.a")
    asking = host.group(f"/shop_1.a{below}") if below else group
    pid = host.start(asking)
    inventory = an_inventory(host, parents=(host.parent.strip("/"),))

    await inventory.refresh()

    found = inventory.find("shop_1.a")
    assert (found.runtime, found.id, found.pid) == ("proc", "shop_1.a", pid)
    assert found.cgroups == (inode(host.folder(group)),)
    assert await inventory.resolve(inode(host.folder(asking)), asking) == found


async def test_elsewhere_a_free_name_is_no_container(host: Host) -> None:
    group = host.group("/shop")
    host.start(group)
    inventory = an_inventory(host)

    await inventory.refresh()

    assert await inventory.resolve(inode(host.folder(group)), group) is None
    with pytest.raises(NotFoundError):
        inventory.find("shop")


@pytest.mark.parametrize("listing", [True, False], ids=["listed", "asked while it connects"])
async def test_a_pod_is_not_taken_for_a_container(host: Host, listing: bool) -> None:
    pod, first, second = an_id(), an_id(), an_id()
    groups = {each: host.group(f"/{pod}/libpod-{each}") for each in (first, second)}
    # Where pure cgroup v2 puts the monitor, which is older than what it monitors.
    host.start(host.group(f"/{pod}/conmon"))
    next_tick()
    pids = {each: host.start(group) for each, group in groups.items()}
    podman = FakePodman((first, pod, "shop"), (second, pod, "shop"), listing=listing)
    inventory = an_inventory(host, podman, parents=(host.parent.strip("/"),))
    if listing:
        await inventory.refresh()

    for id_, group in groups.items():
        found = await inventory.resolve(inode(host.folder(group)), group)
        assert found is not None
        assert (found.runtime, found.id, found.pid) == ("podman", id_, pids[id_])
        assert (found.name, found.pod) == ("web", "shop" if listing else pod)
    assert ours(inventory, pod) == []


async def test_a_container_cannot_pass_for_one_in_a_pod(host: Host) -> None:
    """It may name a cgroup of its own as Podman would another's: Podman knows no such pod."""
    attacker, victim, pod = an_id(), an_id(), an_id()
    forged = host.group(f"/{attacker}/libpod-{victim}")
    host.start(forged)
    inventory = an_inventory(host, FakePodman((victim, pod, "shop"), listing=False))

    found = await inventory.resolve(inode(host.folder(forged)), forged)

    assert found is not None
    assert found.id == attacker


async def test_containers_of_two_engines_are_told_apart(host: Host) -> None:
    ids = {"docker": an_id(), "podman": an_id()}
    for id_ in ids.values():
        host.start(host.group(f"/{id_}"))
    docker = FakeEngine(Listed(Id=ids["docker"], Names=("/a",), Image="d"))
    inventory = an_inventory(host, docker, FakePodman((ids["podman"], "", "")))

    await inventory.refresh()

    known = {each.runtime: (each.id, each.name) for each in ours(inventory, *ids.values())}
    assert known == {"docker": (ids["docker"], "a"), "podman": (ids["podman"], "web")}


async def test_an_engine_that_is_podman_in_disguise_does_not_rename_the_runtime(host: Host) -> None:
    """The package podman-docker puts Podman's socket where Docker's would be."""
    id_ = an_id()
    host.start(host.group(f"/libpod-{id_}"))
    disguised = FakeEngine(Listed(Id=id_, Names=("/web",)))
    inventory = an_inventory(host, disguised, FakePodman((id_, "", "")))

    await inventory.refresh()

    (found,) = ours(inventory, id_)
    assert (found.runtime, found.name) == ("podman", "web")


@pytest.mark.parametrize("program", [("sleep", "600"), UNSHARED], ids=["host", "private"])
async def test_an_absent_engine_is_a_problem_if_it_has_a_container_in_our_network(
    host: Host, program: tuple[str, ...]
) -> None:
    host.start(host.group(f"/libpod-{an_id()}"), program)
    inventory = an_inventory(host, FakeEngine(), Podman("/nowhere/podman.sock"))

    await inventory.refresh()

    if program is UNSHARED:
        assert inventory.problem == ""
    else:
        assert "Podman engine at /nowhere/podman.sock" in inventory.problem
        assert "podman.socket" in inventory.problem
    assert inventory.engine_present
