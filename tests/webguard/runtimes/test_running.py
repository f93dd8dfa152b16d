"""Containers as the kernel has them: real cgroups of our own, with real processes in them.

What makes a process a container's is its cgroup, so a `sleep` in a cgroup named
as a runtime would name it is one. Nothing here needs, or meets, an engine.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import override

import pytest

from webguard.errors import NotFoundError
from webguard.model import Container, Network
from webguard.runtimes import proc
from webguard.runtimes.docker import Docker, Inspected, Listed
from webguard.runtimes.inventory import Inventory
from webguard.runtimes.place import Layout
from webguard.runtimes.podman import Podman

pytestmark = pytest.mark.system

UNSHARED = ("unshare", "--net", "sleep", "600")


class Host:
    """A cgroup of our own below the root, and everything we start in it."""

    def __init__(self) -> None:
        self.root = proc.unified_root()
        self.parent = f"/wgtest-{secrets.token_hex(4)}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.folder(self.parent).mkdir()

    def folder(self, path: str) -> Path:
        """Return where a cgroup is seen."""
        return self.root / path.lstrip("/")

    def group(self, path: str) -> str:
        """Make a cgroup below ours; return its path from the root."""
        self.folder(self.parent + path).mkdir(parents=True)
        return self.parent + path

    def start(self, path: str, argv: tuple[str, ...] = ("sleep", "600")) -> int:
        """Start a process in a cgroup and return its pid."""
        group = str(self.folder(path) / "cgroup.procs")
        # The shell enters the cgroup before it becomes the program, as runc does.
        script = 'echo 0 > "$0" && exec "$@"'
        process = subprocess.Popen(["sh", "-c", script, group, *argv], stdin=subprocess.DEVNULL)
        self.processes.append(process)
        self._wait_for(process.pid, argv)
        return process.pid

    def stop(self, pid: int) -> None:
        """Kill a process and wait until it is gone."""
        (process,) = [each for each in self.processes if each.pid == pid]
        process.kill()
        process.wait(10)
        self.processes.remove(process)

    def clean_up(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        for folder, _, _ in os.walk(self.folder(self.parent), topdown=False):
            Path(folder).rmdir()

    @staticmethod
    def _wait_for(pid: int, argv: tuple[str, ...]) -> None:
        """Wait until the program (the last but one word, with its one argument) runs."""
        for _ in range(1000):
            if Path(f"/proc/{pid}/comm").read_text().strip() == argv[-2]:
                return
            time.sleep(0.01)
        raise TimeoutError(f"{argv} did not start")


def next_tick() -> None:
    """Let the clock of start times go on: it counts in steps of 10 ms."""
    time.sleep(0.03)


class FakeEngine(Docker):
    """An engine that knows what it is told."""

    def __init__(self, *known: Listed, listing: bool = True) -> None:
        super().__init__("/nowhere")
        self.known = known
        self.listing = listing
        self.asked: list[str] = []

    @override
    async def list_containers(self) -> tuple[Listed, ...] | None:
        """List, or know nothing yet."""
        return self.known if self.listing else ()

    @override
    async def inspect(self, id_: str, *, within: float | None = None) -> Inspected | None:
        """Know it, as a real engine does as soon as it was created."""
        self.asked.append(id_)
        for each in self.known:
            if each.id == id_:
                return Inspected.model_validate(
                    {"Id": id_, "Name": each.names[0], "Config": {"Image": each.image}}
                )
        return None


class FakePodman(Podman):
    """A service that has containers in pods: (container, pod, pod's name)."""

    def __init__(self, *known: tuple[str, str, str], listing: bool = True) -> None:
        super().__init__("/nowhere")
        self.known = known
        self.listing = listing

    @override
    async def list_containers(self) -> tuple[Listed, ...] | None:
        """List, or know nothing yet."""
        if not self.listing:
            return ()
        return tuple(
            Listed(Id=id_, Names=("web",), Pod=pod, PodName=name) for id_, pod, name in self.known
        )

    @override
    async def inspect(self, id_: str, *, within: float | None = None) -> Inspected | None:
        """Know it, as soon as it was created; the pod's name is not among the answers."""
        for each, pod, _ in self.known:
            if each == id_:
                return Inspected.model_validate({"Id": id_, "Name": "web", "Pod": pod})
        return None


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.clean_up()


def an_inventory(host: Host, *engines: Docker, parents: tuple[str, ...] = ()) -> Inventory:
    return Inventory(root=host.root, engines=engines or (FakeEngine(),), parents=parents)


def an_id() -> str:
    return secrets.token_hex(32)


def ours(inventory: Inventory, *ids: str) -> list[Container]:
    return [each for each in inventory.containers if each.id in ids]


def inode(path: Path) -> int:
    return path.stat().st_ino


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


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
