"""One measurement: load for a moment, and the CPU time that the contender spent on it.

CPU time is the kernel's count of user and system time of every process of the
contender, in steps of 10 ms. On a busy machine it varies less than the rate, but
not little: few requests fit into a moment then, and opening connections counts.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from os import sysconf
from pathlib import Path

from tests.system.host.testhost import Cgroup

# So few that opening them is a small part of a measurement, also on a busy machine.
CONNECTIONS = 8
SECONDS = 2
_TICKS = sysconf("SC_CLK_TCK")
# What a contender does after the last answer (a record that is written behind) counts, too.
_QUIET = 0.2
_PATIENCE = 5.0

type Processes = Callable[[], Mapping[int, str]]
"""The contender's processes now: pid and what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is asked for, again and again."""

    name: str
    url: str
    new_connections: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one measurement gave."""

    requests: int
    seconds: float
    cpu: Mapping[str, float]  # seconds, by what the process is
    failed: int  # connections that broke, and answers that were late

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cost(self) -> float:
        """CPU milliseconds for a request, of all processes together; NaN without requests."""
        return self.share(*self.cpu)

    def share(self, *roles: str) -> float:
        """CPU milliseconds for a request, of these processes; NaN without requests."""
        spent = sum(self.cpu.get(each, 0.0) for each in roles) * 1000
        return spent / self.requests if self.requests else nan


def load(box: Cgroup, user: int, work: Work, processes: Processes, seconds: int) -> Sample:
    """Ask from the box, as a user of a number, for so many seconds."""
    before = _spent(processes())
    done = box.run(
        [
            *("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--"),
            *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"),
            *(("-H", "Connection: close") if work.new_connections else ()),
            work.url,
        ],
        timeout=60,
    )
    spent: dict[str, float] = {}
    roles = processes()
    for pid, value in _settled(processes).items():
        role = roles.get(pid, "other")
        spent[role] = spent.get(role, 0.0) + value - before.get(pid, 0.0)
    return _sample(done.out, spent)


def _sample(said: str, cpu: Mapping[str, float]) -> Sample:
    """Read what wrk printed. Raises `RuntimeError` for answers that are no success."""
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", said)
    if total is None or "Non-2xx" in said:
        raise RuntimeError(f"the load failed:\n{said}")
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0}[total[3]]
    errors = re.search(r"Socket errors: (.*)", said)
    return Sample(
        requests=int(total[1]),
        seconds=float(total[2]) * unit,
        cpu=cpu,
        failed=sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0,
    )


def _settled(processes: Processes) -> dict[int, float]:
    """Return the CPU seconds of each process, once they no longer grow by more than idling."""
    deadline = time.monotonic() + _PATIENCE
    now = _spent(processes())
    while time.monotonic() < deadline:
        time.sleep(_QUIET)
        before, now = now, _spent(processes())
        if sum(now.values()) - sum(before.values()) < _QUIET / 10:
            break
    return now


def _spent(pids: Mapping[int, str]) -> dict[int, float]:
    found = {}
    for pid in pids:
        with suppress(OSError):  # it ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def below(pid: int) -> dict[int, str]:
    """Return a process and all its descendants, with what each is."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {each: "daemon" if each == pid else _role(each) for each in found}


def _role(pid: int) -> str:
    with suppress(OSError):
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        for each in argv:
            if each.startswith("webguard.daemon."):
                return each.rpartition(".")[2]
    return "other"
