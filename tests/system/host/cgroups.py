"""The machine's cgroups, of which a test host uses only folders that bear its name.

A name appears in every hierarchy that runc knows, and on hybrid machines the
memory one may sit under the caller's own cgroup: so folders are found by name
wherever they are. Everything a test host starts is in one of them, which makes
"kill all that is left" exact.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 20.0  # seconds that killed processes may take to be gone


def _mounts(*kinds: str) -> Iterator[tuple[str, Path]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split()[0]
        if kind in kinds:
            yield kind, Path(before.split()[4])


def v2_root() -> Path:
    """The cgroup v2 hierarchy: the only one, or `unified` on a hybrid machine."""
    for _, point in _mounts("cgroup2"):
        return point
    raise RuntimeError("there is no cgroup v2 hierarchy here; mount one (mount -t cgroup2)")


def folders(name: str) -> list[Path]:
    """The topmost folders of `name` in all hierarchies: `name` itself and `name.*`."""
    found = []
    for _, point in _mounts("cgroup", "cgroup2"):
        for parent, children, _ in os.walk(point):
            ours = [each for each in children if each == name or each.startswith(f"{name}.")]
            found += [Path(parent, each) for each in ours]
            children[:] = [each for each in children if each not in ours]
    return found


def kill(folder: Path) -> None:
    """End every process in the folder and below, and wait until the kernel agrees."""
    deadline = time.monotonic() + _PATIENCE
    while left := processes(folder):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes stay in {folder}: {left}")
        if (folder / "cgroup.kill").exists():
            (folder / "cgroup.kill").write_text("1")
        else:  # cgroup v1
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def processes(folder: Path) -> list[int]:
    """The processes in the folder and below."""
    pids: list[int] = []
    for parent, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):  # gone meanwhile
            pids += map(int, Path(parent, "cgroup.procs").read_text().split())
    return pids


def remove(folder: Path) -> None:
    """Remove the folder and all below; they must be empty of processes."""
    for parent, _, _ in os.walk(folder, topdown=False):
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                Path(parent).rmdir()
            except FileNotFoundError:
                break
            except OSError:  # EBUSY while the last process is being reaped
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                break


def remove_everywhere(name: str) -> None:
    """Kill and remove all that `folders` finds."""
    for folder in folders(name):
        kill(folder)
    for folder in folders(name):
        remove(folder)
