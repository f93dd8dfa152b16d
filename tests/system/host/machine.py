"""A machine with a real systemd, inside the test host: see init.py, which makes it.

It has the test host's network, so the test host's origin is there, and a cgroup
tree of its own: `cgroup` makes a container's parent as the machine sees it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.host.testhost import Argument, Cgroup, Done, TestHost

SYSTEMD = Path("/usr/lib/systemd/systemd")
_START = 60.0


class CannotBootError(Exception):
    """No systemd of our own can run here; the message says why."""


@dataclass
class Machine:
    """Made by `booted`, which also ends it."""

    host: TestHost
    pid: int  # systemd's
    cgroup: Cgroup  # the root of its tree

    def run(
        self,
        argv: Sequence[Argument],
        *,
        check: bool = True,
        timeout: float = 60,
        environment: Mapping[str, str] | None = None,
        cgroup: Cgroup | None = None,
    ) -> Done:
        """Run `argv` in the machine, in `cgroup` or another of its tree, and wait for it."""
        return self.host.run(
            self._entering(argv),
            check=check,
            timeout=timeout,
            environment=environment,
            cgroup=cgroup or self.container("run"),
        )

    def spawn(self, argv: Sequence[Argument], cgroup: Cgroup) -> "subprocess.Popen[bytes]":
        """Start `argv` in the machine. It is killed with the machine, or with its cgroup."""
        return self.host.spawn(self._entering(argv), cgroup=cgroup)

    def _entering(self, argv: Sequence[Argument]) -> list[Argument]:
        enter = ["nsenter", f"--target={self.pid}", "-m", "-u", "-i", "-p", "-C", "--"]
        return [*enter, *argv]

    def container(self, name: str) -> Cgroup:
        """A level 1 cgroup of the machine."""
        return self.host.cgroup(f"{self.cgroup.path.name}/{name}")

    def path(self, inside: Argument) -> Path:
        """A path of the machine's own file system, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root", *Path(inside).parts[1:])


def named(file: Path) -> dict[str, list[str]]:
    """The lines of a file like /etc/passwd, by their first field."""
    return {each[0]: each for each in (line.split(":") for line in file.read_text().splitlines())}


@contextmanager
def booted(host: TestHost) -> Iterator[Machine]:
    """A machine that is up; gone without a trace afterwards. Raises `CannotBootError`."""
    if not SYSTEMD.exists():
        raise CannotBootError(f"{SYSTEMD} is not there")
    cgroup = host.cgroup("machine")
    cgroup.path.chmod(0o555)  # as the root of a cgroup tree is: root without capabilities may not
    said = host.folder / "machine.log"
    script = Path(__file__).parent / "init.py"
    with said.open("wb") as errors:
        process = host.spawn(
            [sys.executable, "-I", "-S", script, str(os.getpid())],
            cgroup=cgroup,
            stdout=subprocess.PIPE,
            stderr=errors.fileno(),
        )
    try:
        assert process.stdout is not None
        first = process.stdout.readline().decode().strip()
        if not first:
            raise CannotBootError(said.read_text()[-2000:])
        machine = Machine(host, int(first), cgroup)
        _wait(machine, process, said)
        yield machine
    finally:
        process.kill()
        process.communicate()
        cgroup.remove()


def _wait(machine: Machine, process: "subprocess.Popen[bytes]", said: Path) -> None:
    deadline = time.monotonic() + _START
    state = ""
    while time.monotonic() < deadline and process.poll() is None:
        done = machine.run(["systemctl", "is-system-running"], check=False)
        state = done.out.strip() or done.err.strip()
        if state in ("running", "degraded"):
            return
        time.sleep(0.1)
    raise CannotBootError(f"systemd is not up: {state}; {said.read_text()[-2000:]}")
