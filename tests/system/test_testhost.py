"""The test host itself: without these, the other system tests would prove nothing."""

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.host import cgroups
from tests.system.host.docker import Docker
from tests.system.host.origin import (
    EICAR,
    EXPIRED,
    HOST_V4,
    HOST_V6,
    ORIGIN_V4,
    ORIGIN_V6,
    SELF_SIGNED,
    UNKNOWN_ISSUER,
    WRONG_NAME,
    Manner,
    Origin,
)
from tests.system.host.picture import Snapshot
from tests.system.host.sessions import session
from tests.system.host.testhost import TestHost

pytestmark = pytest.mark.system

# Curl says so (curl(1), exit codes).
_EMPTY_REPLY, _TIMED_OUT, _BAD_CERTIFICATE, _PARTIAL = 52, 28, 60, 18
_RECEIVE_ERROR, _WEIRD_ANSWER = 56, 1


def curl(origin: Origin, url: str) -> list[str]:
    return ["curl", "-sS", "--max-time", "5", "--cacert", str(origin.ca_file), url]


@pytest.mark.parametrize(
    ("url", "peer"),
    [
        pytest.param("http://v4.good.test/a", HOST_V4, id="http, v4"),
        pytest.param("http://v6.good.test/a", HOST_V6, id="http, v6"),
        pytest.param("http://good.test:8080/a", None, id="http on another port"),
        pytest.param("https://v4.good.test/a", HOST_V4, id="https, v4"),
        pytest.param("https://v6.good.test/a", HOST_V6, id="https, v6"),
        pytest.param("https://p384.good.test/a", None, id="https with another curve"),
        pytest.param(f"https://{ORIGIN_V4}/a", HOST_V4, id="https by v4 address"),
        pytest.param(f"https://[{ORIGIN_V6}]/a", HOST_V6, id="https by v6 address"),
    ],
)
def test_a_process_in_a_cgroup_reaches_the_origin_which_logs_its_address(
    host: TestHost, origin: Origin, url: str, peer: str | None
) -> None:
    origin.serve("/a", b"hello")

    done = host.cgroup("client").run([*curl(origin, url), "-w", " %{local_ip} %{local_port}"])

    body, address, port = done.out.split()
    assert body == "hello"
    assert [(each.peer, each.port) for each in origin.requests("/a")] == [(address, int(port))]
    assert peer in (None, address)
    assert (address, int(port)) in [(each.peer, each.port) for each in origin.connections()]


def test_a_program_runs_in_the_cgroup_that_was_asked_for(host: TestHost) -> None:
    box = host.cgroup("box")

    done = box.run(["cat", "/proc/self/cgroup"])

    assert f"0::/{box.below_root}\n" in done.out
    assert box.below_root.endswith(f"{host.name}/box")
    assert box.id == box.path.stat().st_ino


@pytest.mark.parametrize("name", [EXPIRED, SELF_SIGNED, WRONG_NAME, UNKNOWN_ISSUER])
def test_a_bad_certificate_is_refused_by_a_client(
    host: TestHost, origin: Origin, name: str
) -> None:
    done = host.run(curl(origin, f"https://{name}/"), check=False)

    assert done.code == _BAD_CERTIFICATE
    assert origin.requests() == []
    assert len(origin.connections()) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("manner", "code", "whole"),
    [
        pytest.param(Manner.LENGTH, 0, True, id="announced length"),
        pytest.param(Manner.CHUNKED, 0, True, id="chunked"),
        pytest.param(Manner.CLOSE, 0, True, id="ends with the connection"),
        pytest.param(Manner.SHORT, _PARTIAL, True, id="less than announced"),
        pytest.param(Manner.LONG, 0, False, id="more than announced"),
        pytest.param(Manner.RESET, _RECEIVE_ERROR, False, id="reset in the body"),
        pytest.param(Manner.BAD_CHUNK, _RECEIVE_ERROR, False, id="a chunk size that is no number"),
        pytest.param(Manner.GARBAGE, _WEIRD_ANSWER, False, id="no HTTP"),
        pytest.param(Manner.DROP, _EMPTY_REPLY, False, id="closes without a word"),
        pytest.param(Manner.SILENT, _TIMED_OUT, False, id="never answers"),
    ],
)
def test_the_origin_behaves_and_misbehaves_as_told(
    host: TestHost, origin: Origin, scheme: str, manner: Manner, code: int, whole: bool
) -> None:
    digest = origin.serve_big("/a", 200_000, manner=manner)

    done = host.run(
        [*curl(origin, f"{scheme}://good.test/a"), "-o", host.folder / "got", "--max-time", "2"],
        check=False,
    )

    got = host.folder / "got"
    assert done.code == code
    assert (got.exists() and hashlib.sha256(got.read_bytes()).hexdigest() == digest) == whole
    got.unlink(missing_ok=True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_an_encoded_body_is_what_a_client_decodes(
    host: TestHost, origin: Origin, encoding: str
) -> None:
    origin.serve("/a", EICAR, encoding=encoding)

    plain = host.run(curl(origin, "http://good.test/a"))
    decoded = host.run([*curl(origin, "http://good.test/a"), "--compressed"])

    assert decoded.out.encode() == EICAR
    assert plain.out != decoded.out


def test_an_upload_comes_back_and_is_logged(host: TestHost, origin: Origin) -> None:
    origin.serve("/up", manner=Manner.ECHO)
    body = bytes(range(256)).hex().encode()

    done = host.run([*curl(origin, "http://good.test/up"), "--data-binary", "@-"], stdin=body)

    (seen,) = origin.requests("/up")
    assert done.out.encode() == body
    assert (seen.method, seen.body_sha256) == ("POST", hashlib.sha256(body).hexdigest())


def test_a_datagram_to_443_arrives(host: TestHost, origin: Origin) -> None:
    program = "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); "
    program += "s.settimeout(5); s.sendto(b'x' * 9, ('good.test', 443)); s.recv(99)"

    host.run([sys.executable, "-I", "-S", "-c", program])

    assert [(each.peer, each.size) for each in origin.datagrams()] == [(HOST_V6, 9)]


@pytest.mark.parametrize("network", ["host", "bridge"])
def test_a_container_reaches_the_origin(
    docker: Docker, origin: Origin, network: str, host: TestHost
) -> None:
    origin.serve("/a", b"hello")

    done = docker.run(docker.busybox, "wget", "-qO-", f"http://{ORIGIN_V4}/a", network=network)

    assert done.out == "hello"
    assert [each.peer for each in origin.requests("/a")] == [HOST_V4]


def test_a_host_network_container_shares_the_hosts_network_and_is_below_its_cgroup(
    host: TestHost, docker: Docker
) -> None:
    with docker.container(docker.busybox, "sleep", "60") as full_id:
        state = json.loads(docker.command("inspect", full_id).out)[0]["State"]
        namespaces = [Path(f"/proc/{pid}/ns/net").readlink() for pid in (state["Pid"], host.pid)]
        group = Path(f"/proc/{state['Pid']}/cgroup").read_text()

    assert namespaces[0] == namespaces[1]
    assert f"0::{docker.cgroup_parent}/{full_id}\n" in group
    assert len(full_id) == 64


def test_the_debian_image_has_real_clients(host: TestHost, docker: Docker, origin: Origin) -> None:
    origin.serve("/a", b"hello")
    script = (
        "curl -sS http://good.test/a; wget -qO- http://good.test/a; "
        "python3 -c \"import requests; print(requests.get('http://good.test/a').text)\""
    )

    done = docker.run(docker.debian, "sh", "-c", script)

    assert done.out == "hellohellohello\n"


def test_the_bare_image_is_one_program(docker: Docker) -> None:
    done = docker.run(docker.bare, "find", "/", "-xdev", "-type", "f")

    ours = [line for line in done.out.split() if not line.startswith(("/etc/", "/.dockerenv"))]
    assert ours == ["/busybox"]


def test_a_picture_shows_what_changed_and_nothing_else(host: TestHost) -> None:
    before = host.snapshot()
    assert host.snapshot() - before == []

    host.run(["nft", "add table inet seen { flags dormant; }"])
    host.run(["ip", "link", "add", "seen0", "type", "veth", "peer", "name", "seen1"])
    host.run(["mkdir", "/run/seen"])
    host.run(["sysctl", "-qw", "net.ipv4.ip_default_ttl=63"])
    listener = host.spawn(["busybox", "nc", "-l", "-p", "7777"])
    seen = "\n".join(wait_for(host, before, ":1E61"))
    listener.kill()
    listener.wait()
    host.run(["sysctl", "-qw", "net.ipv4.ip_default_ttl=64"])
    host.run(["rmdir", "/run/seen"])
    host.run(["ip", "link", "del", "seen0"])
    host.run(["nft", "delete table inet seen"])

    for change in (
        "+ tables: table inet seen",
        "+ links: seen0",
        "+ run: /run/seen",
        "+ sysctls: /proc/sys/net/ipv4/ip_default_ttl=63",
        "+ sockets: tcp6 00000000000000000000000000000000:1E61",
        f"+ processes: {listener.pid} busybox nc",
    ):
        assert change in seen
    assert host.snapshot() - before == []


def wait_for(host: TestHost, before: Snapshot, line: str) -> list[str]:
    """The difference once it has that line: a program needs a moment to listen."""
    changes: list[str] = []
    for _ in range(100):
        changes = host.snapshot() - before
        if any(line in each for each in changes):
            return changes
        time.sleep(0.1)
    raise AssertionError(f"{line!r} was never seen: {changes}")


def machine() -> set[str]:
    """What a suite could leave behind on the machine, in its own namespaces, line by line."""
    commands = (
        ["ip", "-oneline", "address"],
        ["nft", "-s", "list", "ruleset"],
        ["getent", "passwd"],
        ["getent", "group"],
        ["ls", "/etc", "/opt", "/var/lib", "/run"],
        ["cat", "/proc/self/mountinfo"],
    )
    said = (subprocess.run(argv, capture_output=True, text=True, check=True) for argv in commands)
    return {line for each in said for line in each.stdout.splitlines()}


# What a new line would bear if it came from a session; other programs live on the machine too,
# a dockerd perhaps, and they come and go.
MARKS = ("nested", "wgt-", "10.213.7.", "fd00:7767", ".test-host", "docker", "webguard")


def left_of(name: str, namespaces: list[str]) -> list[str]:
    """What is left of a session: cgroups, its folder, loop devices, processes."""
    left = [str(folder) for folder in cgroups.folders(name)]
    left += [str(each) for each in Path("/var/tmp").glob(f"{name}*")]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        left += [file for file in [backing.read_text().strip()] if name in file]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns" / "net").readlink()) in namespaces:
                left.append(str(process))
    return left


# A whole session with all that leaves traces: users, links, rules, a dockerd, a container.
SESSION = """
import os, sys
from tests.system.host.testhost import open_host

with open_host() as host:
    host.run(["nft", "add table inet nested"])
    host.run(["groupadd", "nested"])
    host.run(["touch", "/opt/nested", "/run/nested", "/var/lib/nested"])
    host.docker.command("run", "--detach", "--network", "host", host.docker.busybox, "sleep", "99")
    spaces = [os.readlink(f"/proc/{pid}/ns/net") for pid in (host.pid, host.origin.pid)]
    print(host.name, *spaces, flush=True)
    if sys.argv[1] == "fails":
        raise SystemExit("a test failed")
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["by itself", "fails", "killed"])
def test_a_session_leaves_nothing_and_never_touches_the_machine(end: str) -> None:
    before = machine()

    done = subprocess.run(
        [sys.executable, "-c", SESSION, end], capture_output=True, text=True, timeout=180
    )
    name, *namespaces = done.stdout.split()
    if end == "killed":
        assert left_of(name, namespaces) != []  # only the next session can clean up
        with session():
            pass

    assert left_of(name, namespaces) == []
    new = machine() - before
    assert [line for line in new if any(mark in line.lower() for mark in MARKS)] == []


def test_a_living_suite_is_not_swept_away_by_another(host: TestHost) -> None:
    with session() as folder:
        other = folder.name

    assert other != host.name
    assert host.run(["true"]).code == 0
    assert host.folder.exists()


def test_webguard_is_placed_in_the_host_alone(host: TestHost, webguard_installed: Path) -> None:
    machine_has = Path("/opt/webguard").exists()
    service = ["setpriv", "--reuid", "webguard-proxy", "--regid", "webguard-proxy"]
    service += ["--clear-groups", "--no-new-privs"]

    done = host.run([*service, webguard_installed, "--help"])

    assert "webguard" in done.out
    assert machine_has == Path("/opt/webguard").exists()
    assert subprocess.run(["getent", "passwd", "webguard-signer"]).returncode != 0 or machine_has
