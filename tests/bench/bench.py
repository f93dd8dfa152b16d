"""`make bench`: measure all contenders in one interleaved run, and write the page.

Round-robin: each round asks every contender for a kind of work, one after the
other, before the next kind. What else happens on the machine then hits all of
them alike, and the page gives medians of rounds with their spread.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench import contenders, measure
from tests.bench.contenders import Contender
from tests.bench.measure import Sample, Work
from tests.bench.page import Results, page
from tests.system.conftest import CHECKOUT, placed_dependencies
from tests.system.host.testhost import TestHost, open_host

WORKS = (
    *(
        Work(name=f"{scheme.upper()}, {size} KB", url=contenders.url(scheme, size))
        for scheme in ("http", "https")
        for size in contenders.SIZES
    ),
    Work(name="new TLS connections, 1 KB", url=contenders.url("https", 1), new_connections=True),
)


def say(text: str) -> None:
    """Print at once, so that a person can follow."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=measure.SECONDS)
    parser.add_argument("--page", type=Path, default=CHECKOUT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    facts = _facts(arguments.rounds, arguments.seconds)
    say("bench: making hosts, and starting who is measured")
    with _everybody() as everybody:
        results = _measure(everybody, arguments.rounds, arguments.seconds)
    facts["load average, before and after"] += f", {_load()}"
    arguments.page.write_text(page(facts, results, {e.name: e.missing for e in everybody}))
    say(f"bench: written to {arguments.page}")


@contextmanager
def _everybody() -> Iterator[list[Contender]]:
    """Start everybody, and leave out whom this machine does not have.

    Two daemons of the same name in one host would be in each other's way, so the
    second has a host of its own.
    """
    with ExitStack() as stack:
        one = _host(stack, placed_dependencies())
        copied = one.folder / "opt"
        subprocess.run(["cp", "-a", one.path("/opt/webguard"), copied], check=True, timeout=120)
        two = _host(stack, copied)
        yield [
            contenders.direct(one),
            stack.enter_context(contenders.mitmproxy(one, port=61001, scans=False)),
            stack.enter_context(contenders.mitmproxy(one, port=61002, scans=True)),
            stack.enter_context(contenders.webguard(one, 1)),
            stack.enter_context(contenders.webguard(two, 2)),
        ]


def _host(stack: ExitStack, installed: Path) -> TestHost:
    host = stack.enter_context(open_host(installed))
    host.place_product(CHECKOUT)
    stack.enter_context(contenders.serving(host))
    return host


def _measure(everybody: list[Contender], rounds: int, seconds: int) -> Results:
    results: Results = {
        work.name: {each.name: [] for each in everybody if each.box} for work in WORKS
    }
    _once(everybody, 0, 1)  # caches, certificates, connections: not counted
    for number in range(1, rounds + 1):
        for work, name, sample in _once(everybody, number, seconds):
            results[work][name].append(sample)
    return results


def _once(everybody: list[Contender], number: int, seconds: int) -> list[tuple[str, str, Sample]]:
    samples = []
    for work in WORKS if number else WORKS[::3]:
        # Not always the same neighbour before oneself.
        for each in everybody[number % len(everybody) :] + everybody[: number % len(everybody)]:
            if each.box is None:
                continue
            sample = measure.load(each.box, each.user, work, each.processes, seconds)
            samples.append((work.name, each.name, sample))
            parts = ", ".join(f"{k} {v:.2f}" for k, v in sample.cpu.items() if v)
            say(
                f"{f'round {number}' if number else 'warm-up'}: {work.name}: {each.name}:"
                f" {sample.rate:.0f}/s, CPU seconds: {parts or 'none'}"
            )
    return samples


def _facts(rounds: int, seconds: int) -> dict[str, str]:
    """Return what the page says about where and how this was measured."""
    commit = _said("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty")
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, at commit {commit}",
        "command": "`deploy/bench/run`, which is what `make bench` runs",
        "machine": f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores,"
        f" {int(_field('/proc/meminfo', 'MemTotal').split()[0]) >> 20} GiB; shared with others",
        "load average, before and after": _load(),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": f"mitmproxy {version('mitmproxy')}, yara-x {version('yara-x')},"
        f" Python {platform.python_version()}, {_said('nginx', '-v').split(': ')[-1]},"
        f" wrk {_said('wrk', '-v').split()[1]}",
        "load": f"`wrk -t1 -c{measure.CONNECTIONS} -d{seconds}s`, {rounds} rounds",
    }


def _said(*argv: str) -> str:
    """Return what a program says first; the programs that are asked exit with 1 for help."""
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"},
    )
    return (done.stdout + done.stderr).strip().splitlines()[0]


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
