"""A host of our own cgroups for the tests of what runs, and engines that say what they are told.

What makes a process a container's is its cgroup, so a `sleep` in a cgroup named
as a runtime would name it is one. Nothing here needs, or meets, an engine.
"""

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import override

from webguard.model import Container
from webguard.runtimes import proc
from webguard.runtimes.docker import Docker, Inspected, Listed
from webguard.runtimes.inventory import Inventory
from webguard.runtimes.podman import Podman

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
