"""`webguard doctor`: what stands in the way is named with its remedy, and nothing is changed."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host.testhost import TestHost

pytestmark = pytest.mark.system

PROGRAM = "/opt/webguard/venv/bin/webguard"
SETTINGS = "/etc/webguard/webguard.yaml"
PORT = 13128
LISTENER = f"import socket, time; s = socket.create_server(('127.0.0.1', {PORT})); time.sleep(60)"


@pytest.fixture(autouse=True)
def installed(host: TestHost, webguard_installed: Path) -> Iterator[None]:
    """Without settings: the defaults."""
    host.path(SETTINGS).unlink(missing_ok=True)
    yield
    host.path(SETTINGS).unlink(missing_ok=True)


type Findings = dict[str, dict[str, str]]


def doctor(host: TestHost, first: str = "true", end: str = "true") -> tuple[int, Findings]:
    """Exit code and findings, in a mount namespace of its own in which `first` is done before."""
    script = f"set -e; {first}; code=0; {PROGRAM} doctor --json || code=$?; {end}; exit $code"
    done = host.run(["unshare", "--mount", "sh", "-c", script], check=False, timeout=60)
    assert "Traceback" not in done.err
    return done.code, {each["check"]: each for each in json.loads(done.out)["checks"]}


def failed(findings: Findings) -> list[str]:
    return [name for name, each in findings.items() if each["standing"] == "fail"]


def test_nothing_stands_in_the_way_of_a_good_host(host: TestHost) -> None:
    before = host.snapshot()
    code, findings = doctor(host)
    assert (code, failed(findings)) == (0, [])
    assert {f"port {PORT}", "kernel", "cgroup v2", "clock", "settings"} <= findings.keys()
    assert host.snapshot() - before == []


def test_without_json_a_check_is_a_line(host: TestHost) -> None:
    done = host.run([PROGRAM, "doctor"])
    for each in (f"port {PORT}\tok\tfree", "clock\tok"):
        assert each in done.out


BROKEN = [
    pytest.param(
        f"{sys.executable} -I -c {shlex.quote(LISTENER)} & pid=$!; sleep 1",
        "kill $pid",
        f"port {PORT}",
        "in use",
        "ss -ltnp",
        id="a busy port",
    ),
    pytest.param(
        "grep -v ^webguard-signer /etc/passwd > /run/p; mount --bind /run/p /etc/passwd",
        "rm /run/p",
        "user webguard-signer",
        "missing",
        "make install",
        id="a missing user",
    ),
    pytest.param(
        f"mkdir -p /etc/webguard; printf 'web:\\n  prots: [80]\\n' > {SETTINGS}",
        "true",
        "settings",
        f"{SETTINGS}:2",
        "correct the line",
        id="broken settings",
    ),
    pytest.param(
        f"mkdir -p /etc/webguard; touch {SETTINGS}; chmod 666 {SETTINGS}",
        "true",
        SETTINGS,
        "others than its owner can write to it (mode 0666)",
        f"chown root {SETTINGS}; chmod go-w {SETTINGS}",
        id="settings that others can write",
    ),
    pytest.param(
        "mkdir -p /var/lib/webguard; mount -t tmpfs -o mode=777 none /var/lib/webguard",
        "true",
        "/var/lib/webguard",
        "others than its owner can write to it (mode 0777)",
        "chmod go-w /var/lib/webguard",
        id="a folder that others can write",
    ),
    pytest.param(
        "mkdir -p /var/lib/webguard; mount -t tmpfs -o mode=755 none /var/lib/webguard;"
        " mkdir /var/lib/webguard/ca; chown 65534 /var/lib/webguard/ca",
        "true",
        "/var/lib/webguard/ca",
        "65534",
        "move it away",
        id="a folder of somebody else",
    ),
    pytest.param(
        "for f in $(ldconfig -p | sed -n 's/.*libnftables.so.1 .* => //p');"
        " do mount --bind /dev/null $f; done",
        "true",
        "Kernel and nftables",
        "libnftables.so.1",
        "libnftables1",
        id="no libnftables",
    ),
]


@pytest.mark.parametrize(("first", "end", "check", "reason", "fix"), BROKEN)
def test_what_is_broken_is_named_with_its_remedy_and_alone(
    host: TestHost, first: str, end: str, check: str, reason: str, fix: str
) -> None:
    code, findings = doctor(host, first, end)
    assert (code, failed(findings)) == (1, [check])
    assert reason in findings[check]["reason"]
    assert fix in findings[check]["fix"]


def test_another_user_is_told_to_be_root(host: TestHost) -> None:
    done = host.run(["setpriv", "--reuid=65534", PROGRAM, "doctor", "--json"], check=False)
    findings = {each["check"]: each for each in json.loads(done.out)["checks"]}
    assert done.code == 1
    assert "sudo" in findings["user"]["fix"]
