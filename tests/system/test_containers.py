"""Slice 3: what clients in a real container get, and what is left alone."""

import gzip
import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.containers import serve_eicar
from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, GOOD_V4, GOOD_V6, HOST_V4, Origin
from tests.system.host.testhost import TestHost
from tests.system.product import Webguard, running, wait_until
from webguard.cli.ask import ask as ask_daemon

pytestmark = pytest.mark.system

RULE = 'rule own_marker { strings: $a = "a marker of this very test" condition: $a }'
MARKED = b"... a marker of this very test ..."
# Each writes the body to /tmp/body and prints the status.
_REQUESTS = (
    "import sys, requests; got = requests.get(sys.argv[1], timeout=20);"
    "open('/tmp/body', 'wb').write(got.content); print('HTTP/1.1', got.status_code)"
)
CLIENTS = {
    "curl": ["curl", "-sS", "-m", "20", "-o", "/tmp/body", "-w", "HTTP/1.1 %{http_code}"],
    "wget": ["wget", "-nv", "-S", "--content-on-error", "-T", "20", "-t", "1", "-O", "/tmp/body"],
    "requests": ["python3", "-c", _REQUESTS],
}


@pytest.fixture(scope="module")
def webguard(host: TestHost, docker: Docker, webguard_installed: Path) -> Iterator[Webguard]:
    parents = [docker.cgroup_parent.strip("/")]
    with running(host, webguard_installed, parents, rules={"own.yar": RULE}) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(webguard: Webguard, docker: Docker) -> Iterator[str]:
    """A container with real clients, which trusts our CA."""
    with docker.container(docker.debian, "sleep", "600") as full_id:
        webguard.command("cert", "install", full_id, check=False)
        yield full_id


def ask(docker: Docker, full_id: str, program: str, url: str) -> tuple[int, bytes]:
    """Status and body that a program in the container gets."""
    script = 'rm -f /tmp/body; "$@"; echo; echo BODY; od -An -v -tx1 /tmp/body'
    done = docker.command("exec", full_id, "sh", "-c", script, "-", *CLIENTS[program], url)
    said, _, body = done.out.partition("\nBODY\n")
    status = re.search(r"HTTP/1\.1 (\d{3})", said + done.err)
    assert status, done
    return int(status[1]), bytes.fromhex(body)


@pytest.mark.parametrize("program", CLIENTS)
@pytest.mark.parametrize("name", [GOOD_V4, GOOD_V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("bad", "encoding"),
    [
        pytest.param(EICAR, "", id="EICAR"),
        pytest.param(EICAR, "gzip", id="EICAR in gzip"),
        pytest.param(MARKED, "", id="a rule of the test's own"),
    ],
)
def test_bad_content_is_blocked_and_clean_content_of_the_same_address_is_delivered(
    webguard: Webguard,
    docker: Docker,
    origin: Origin,
    client: str,
    bad: bytes,
    encoding: str,
    scheme: str,
    name: str,
    program: str,
) -> None:
    path = f"/{secrets.token_hex(12)}"
    url = f"{scheme}://{name}{path}"

    origin.serve(path, bad, encoding=encoding)
    status, body = ask(docker, client, program, url)
    assert status == 403
    assert bad not in body
    assert gzip.compress(bad)[10:-8] not in body  # without its head, which holds the time

    digest = origin.serve(path, secrets.token_bytes(100_000), encoding=encoding)
    status, body = ask(docker, client, program, url)
    assert status == 200
    # Curl and wget did not ask for an encoding, and do not undo one.
    packed = encoding == "gzip" and program != "requests"
    assert hashlib.sha256(gzip.decompress(body) if packed else body).hexdigest() == digest

    events = webguard.wait_for(lambda _: [e for e in webguard.events() if seen(e, path)][1:])
    kinds = [(each["kind"], each["container"]["id"]) for each in events if seen(each, path)]
    assert kinds == [("web.blocked", client), ("web.passed", client)]


def seen(event: dict[str, object], path: str) -> bool:
    return path in str(event.get("subject", ""))


def settled(webguard: Webguard) -> tuple[int, int]:
    """How many connections were redirected and how many served, once the two agree.

    Our own probes go through the containers' rule too, and are taken off. The worker
    tells its count once a second, so for a moment it is behind the kernel's.
    """
    counted = (0, -1)

    def agree() -> bool:
        nonlocal counted
        # Not through the command: that is too slow to meet the moment between two probes.
        status = ask_daemon(webguard.host.path("/run/webguard/control.sock"), "/v1/status")
        (worker,) = status["workers"]
        packets = status["packets"]
        counted = (packets["redirected"] + packets["probe"] - worker["probes"], worker["served"])
        return counted[0] == counted[1] and worker["refused"] == 0

    wait_until(agree)
    return counted


@pytest.mark.parametrize("who", ["a bridge container", "a host process"])
def test_who_is_not_a_host_network_container_is_left_alone(
    webguard: Webguard, host: TestHost, docker: Docker, origin: Origin, who: str
) -> None:
    url = serve_eicar(origin)
    before = settled(webguard)
    argv = ["curl", "-sS", "-w", "%{stderr}%{local_port}", url]

    if who == "a host process":
        done = host.run(argv)
    else:
        done = docker.run(docker.debian, *argv, network="bridge")

    assert done.out.encode() == EICAR
    # Its own port: Docker's masquerading keeps it, and a proxy could not have it.
    assert [(each.peer, str(each.port)) for each in origin.connections()] == [(HOST_V4, done.err)]
    assert settled(webguard) == before
    assert webguard.status()["protected"]


def test_every_container_is_listed_with_its_network_as_measured_and_why_it_is_not_inspected(
    webguard: Webguard, docker: Docker
) -> None:
    idle = (docker.busybox, "sleep", "600")
    with (
        docker.container(*idle, options=("--name", "in-host")) as host_id,
        docker.container(*idle, network="bridge", options=("--name", "bridged")) as bridged,
        docker.container(*idle, network="none", options=("--name", "alone")) as alone,
        docker.container(
            *idle, network=f"container:{host_id}", options=("--name", "guest")
        ) as guest,
        docker.container(
            *idle, network=f"container:{bridged}", options=("--name", "bridged-guest")
        ) as other,
    ):
        answer = json.loads(webguard.command("containers", "--json").out)["containers"]
        table = webguard.command("containers").out

    known = {each["id"]: each for each in answer}
    facts = {
        id_: (known[id_]["name"], known[id_]["network"], known[id_]["inspected"])
        for id_ in (host_id, bridged, alone, guest, other)
    }
    assert facts == {
        host_id: ("in-host", "host", True),
        guest: ("guest", "host", True),
        bridged: ("bridged", "private", False),
        alone: ("alone", "private", False),
        other: ("bridged-guest", "private", False),
    }
    assert {known[each]["runtime"] for each in facts} == {"docker"}
    assert {known[each]["image"] for each in facts} == {docker.busybox}
    assert "it has its own network" in known[bridged]["why_not"]
    assert known[host_id]["why_not"] == ""
    assert re.search(
        rf"^{bridged[:12]}\s+bridged\s.*no: it has its own network", table, re.MULTILINE
    )


def test_a_container_that_ended_is_not_listed(webguard: Webguard, docker: Docker) -> None:
    with docker.container(docker.busybox, "sleep", "600") as full_id:
        assert full_id in webguard.command("containers", "--json").out
        docker.command("kill", full_id)
        wait_until(lambda: full_id not in json.dumps(webguard.status()["containers"]))
        assert full_id not in webguard.command("containers", "--json").out
