"""Webguard itself in the test host: started as an operator starts it, and asked as one asks."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.system.host.origin import ORIGIN_V4
from tests.system.host.testhost import Cgroup, Done, TestHost

_START = 90.0
_STOP = 30.0

type Event = dict[str, Any]


@dataclass
class Webguard:
    """A running daemon of ours in the test host."""

    host: TestHost
    program: Path
    process: "subprocess.Popen[bytes]"
    output: Path
    errors: Path

    @property
    def pid(self) -> int:
        """The daemon's own."""
        return self.process.pid

    def command(self, *argv: str, check: bool = True, timeout: float = 60) -> Done:
        """Run `webguard ARGV...` in the host, as root."""
        return self.host.run([self.program, *argv], check=check, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """What `webguard status --json` says; exit code 1 says the same as `protected`."""
        answer: dict[str, Any] = json.loads(self.command("status", "--json", check=False).out)
        return answer

    def events(self, **wanted: str) -> list[Event]:
        """The events so far whose fields are as wanted, oldest first."""
        lines = self.output.read_text(errors="strict").splitlines()
        found = [json.loads(line) for line in lines if line]
        return [each for each in found if all(each.get(k) == v for k, v in wanted.items())]

    def wait_for(
        self, what: Callable[[list[Event]], Any], *, timeout: float = 15, **wanted: str
    ) -> list[Event]:
        """The events as wanted, once `what` is true of them."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.events(**wanted)
            if what(found):
                return found
            if time.monotonic() > deadline:
                said = "\n".join(json.dumps(each)[:600] for each in self.events()[-12:])
                raise AssertionError(f"no such events within {timeout} s; the last ones:\n{said}")
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """The workers' pids, as the daemon tells them."""
        return [each["pid"] for each in self.status()["workers"]]

    def children(self, module: str) -> list[int]:
        """The pids of the daemon's children that run a module of ours."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                argv = (folder / "cmdline").read_bytes().split(b"\0")
                if parent == self.pid and module.encode() in argv:
                    found.append(int(folder.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(_STOP)


@contextmanager
def running(
    host: TestHost,
    program: Path,
    parents: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    rules: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[Webguard]:
    """A daemon that intercepts the containers below these cgroups; stopped at the end."""
    config = {section: dict(keys) for section, keys in (settings or {}).items()}
    config.setdefault("runtimes", {})
    config["runtimes"] = {
        "cgroup_parents": list(parents),
        "docker": "/run/docker.sock",
        **config["runtimes"],
    }
    # One, unless a test is about several: then "the worker" is a word.
    config["web"] = {"workers": 1, **config.get("web", {})}
    config.setdefault("tls", {"extra_ca": [str(host.origin.ca_file)]})
    _write(host, "/etc/webguard/webguard.yaml", yaml.safe_dump(config))
    for name, text in (rules or {}).items():
        _write(host, f"/etc/webguard/rules.d/{name}", text)
    output, errors = host.folder / "events.jsonl", host.folder / "webguard.log"
    with output.open("wb") as out, errors.open("wb") as err:
        process = host.spawn([program, "run"], stdout=out.fileno(), stderr=err.fileno())
    webguard = Webguard(host, program, process, output, errors)
    try:
        if wait:
            _wait(webguard)
        yield webguard
    finally:
        if process.poll() is None:
            webguard.stop()
        for name in rules or {}:
            host.path(f"/etc/webguard/rules.d/{name}").unlink()


def _wait(webguard: Webguard) -> None:
    deadline = time.monotonic() + _START
    while webguard.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ValueError):  # no daemon yet, so no JSON
            status = webguard.status()
            if status["protected"] and status["pid"] == webguard.pid:
                return
        time.sleep(0.2)
    said = webguard.errors.read_text(errors="replace")[-4000:]
    raise AssertionError(f"webguard does not protect; it said:\n{said}")


def wait_until(true: Callable[[], bool], timeout: float = 15) -> None:
    """Return once it is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.1)


def _write(host: TestHost, path: str, text: str) -> None:
    inside = host.path(path)
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_text(text)


def curl(box: Cgroup, url: str, *options: str, check: bool = False) -> Done:
    """Ask from a cgroup, with the body on standard output and the status on standard error."""
    return box.run(
        ["curl", "-sS", "-m", "20", "-w", "%{stderr}%{http_code}", *options, url], check=check
    )


def raw(box: Cgroup, data: bytes) -> Done:
    """Send bytes to the origin's port 80 from a cgroup, and print what comes back."""
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 80)); s.settimeout(10);"
        "s.sendall(sys.stdin.buffer.read()); s.shutdown(1); print(s.recv(65536))"
    )
    python = "/opt/webguard/venv/bin/python"
    return box.run([python, "-I", "-c", script, ORIGIN_V4], check=False, stdin=data)
