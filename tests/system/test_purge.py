"""The CA goes out of containers before it goes from the host, whatever became of them since."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.host.docker import Docker
from tests.system.host.testhost import Done, TestHost
from tests.system.product import Webguard, running

pytestmark = pytest.mark.system

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # these images have none of their own


@pytest.fixture
def boxes(docker: Docker) -> Iterator[dict[str, str]]:
    """Full ids by what becomes of the containers."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                docker.container(docker.busybox, "sleep", "600", options=("--name", name))
            )
            for name in ("relieved", "running", "stopped", "deleted")
        }


def holds(docker: Docker, full_id: str) -> bool:
    return docker.command("exec", full_id, "test", "-e", BUNDLE, check=False).code == 0


def recorded(host: TestHost) -> set[str]:
    records = host.path("/var/lib/webguard/state").glob("certs-*.json")
    return {json.loads(each.read_text())["id"] for each in records}


def cert(webguard: Webguard, deed: str, *names: str) -> list[str]:
    done = webguard.command("cert", deed, "--json", *names, check=False)
    return [each["level"] for each in json.loads(done.out)["results"]]


def test_a_container_is_relieved_of_the_ca_by_whoever_it_is_known_when_it_is_purged(
    host: TestHost, docker: Docker, webguard_installed: Path, boxes: dict[str, str]
) -> None:
    parents = [docker.cgroup_parent.strip("/")]

    def purge(option: str) -> Done:
        return host.run([webguard_installed, "purge", option], check=False, timeout=120)

    # Docker is away when the certificates are installed: the kernel alone knows the containers.
    away = {"runtimes": {"docker": "/run/nobody.sock"}}
    with running(host, webguard_installed, parents, away) as webguard:
        assert cert(webguard, "install", *boxes.values()) == ["installed"] * len(boxes)
    assert recorded(host) == set(boxes.values())

    # It is there now, and the containers have names.
    with running(host, webguard_installed, parents) as webguard:
        assert cert(webguard, "status", "relieved", "running") == ["installed"] * 2
        assert cert(webguard, "remove", "relieved") == ["not installed"]
    assert not holds(docker, boxes["relieved"])
    assert recorded(host) == set(boxes.values()) - {boxes["relieved"]}

    docker.command("stop", "--time", "0", boxes["stopped"])
    docker.command("rm", "--force", boxes["deleted"])
    start = f"docker start {boxes['stopped'][:12]}"
    rehearsed = purge("--dry-run")
    assert f"from docker container '{boxes['running'][:12]}' ('running')" in rehearsed.out
    assert start in rehearsed.out
    assert boxes["deleted"][:12] not in rehearsed.out
    assert holds(docker, boxes["running"])

    refused = purge("--yes")
    assert (refused.code, start in refused.err) == (1, True), refused
    assert not holds(docker, boxes["running"])
    assert host.path("/etc/webguard/webguard.yaml").exists()
    assert "/var/lib/webguard" not in purge("--dry-run").out

    docker.command("start", boxes["stopped"])
    last = purge("--dry-run").out
    assert f"from docker container '{boxes['stopped'][:12]}' ('stopped')" in last
    assert "/var/lib/webguard" in last
    with running(
        host, webguard_installed, parents
    ) as webguard:  # what is installed stays for others
        assert cert(webguard, "remove", "stopped") == ["not installed"]
    assert recorded(host).isdisjoint(boxes.values())
