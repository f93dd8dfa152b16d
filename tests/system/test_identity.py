"""Slice 3: whichever way a container's process starts, its first packet is caught and named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.containers import (
    assert_only_the_proxy_asked,
    blocked,
    restart_again_and_again,
    serve_eicar,
)
from tests.system.host import cgroups
from tests.system.host.docker import Docker
from tests.system.host.origin import Origin
from tests.system.host.testhost import TestHost
from tests.system.product import Webguard, running

pytestmark = pytest.mark.system

_FRESH = 30


@pytest.fixture(scope="module")
def webguard(host: TestHost, docker: Docker, webguard_installed: Path) -> Iterator[Webguard]:
    with running(host, webguard_installed, [docker.cgroup_parent.strip("/")]) as daemon:
        yield daemon


@pytest.fixture
def eicar(origin: Origin) -> str:
    return serve_eicar(origin)


def test_the_first_packet_of_fresh_containers_is_caught_and_named(
    webguard: Webguard, host: TestHost, docker: Docker, origin: Origin, eicar: str
) -> None:
    ids = []
    for number in range(_FRESH):
        card = host.folder / f"fresh-{number}"
        done = docker.run(
            *(docker.busybox, "wget", "-qO-", f"{eicar}?fresh-{number}."),
            options=("--cidfile", str(card)),
            check=False,
        )
        ids.append(card.read_text())
        assert "403 Forbidden" in done.err
        assert "EICAR" not in done.out

    events = blocked(webguard, "?fresh-", _FRESH)
    assert [each["container"]["id"] for each in events] == ids
    assert len(set(ids)) == _FRESH
    assert_only_the_proxy_asked(origin, events)


def test_the_first_packet_after_every_restart_is_caught_and_named(
    webguard: Webguard, docker: Docker, origin: Origin, eicar: str
) -> None:
    restart_again_and_again(webguard, docker, origin, eicar)


def test_a_container_in_anothers_network_is_caught_under_its_own_id(
    webguard: Webguard, host: TestHost, docker: Docker, origin: Origin, eicar: str
) -> None:
    guests = {}
    with docker.container(docker.busybox, "sleep", "600") as owner:
        docker.command("restart", "--time", "0", owner)
        for number in range(30):
            card = host.folder / f"guest-{number}"
            done = docker.run(
                *(docker.busybox, "wget", "-qO-", f"{eicar}?guest-{number}"),
                network=f"container:{owner}",
                options=("--cidfile", str(card)),
                check=False,
            )
            assert "403 Forbidden" in done.err
            guests[number] = card.read_text()

    events = blocked(webguard, "?guest-", count=30)
    assert {each["container"]["id"] for each in events} == set(guests.values())
    assert owner not in guests.values()
    assert {each["container"]["network"] for each in events} == {"host"}
    assert_only_the_proxy_asked(origin, events)


def test_what_docker_exec_starts_is_caught_and_named(
    webguard: Webguard, docker: Docker, origin: Origin, eicar: str
) -> None:
    with docker.container(docker.busybox, "sleep", "600") as full_id:
        ask = ("exec", full_id, "wget", "-qO-", f"{eicar}?exec")
        first = docker.command(*ask, check=False)
        docker.command("restart", "--time", "0", full_id)
        second = docker.command(*ask, check=False)

    assert "403 Forbidden" in first.err
    assert "403 Forbidden" in second.err
    events = blocked(webguard, "?exec", 2)
    assert [each["container"]["id"] for each in events] == [full_id] * 2
    assert_only_the_proxy_asked(origin, events)


def test_a_container_cannot_hide_in_a_cgroup_of_its_own_making(
    webguard: Webguard, docker: Docker, origin: Origin, eicar: str
) -> None:
    """With the tree mounted it may make groups below its own, even with somebody else's name."""
    forged = "f" * 64
    script = (
        'while read line; do case $line in 0::*) own="/tree${line#0::}";; esac; '
        f"done < /proc/self/cgroup; mkdir -p $own/a/{forged}; "
        f"echo 0 > $own/a/{forged}/cgroup.procs; wget -qO- {eicar}?deeper; cat /proc/self/cgroup"
    )
    tree = ("--volume", f"{cgroups.v2_root()}:/tree")
    with docker.container(docker.busybox, "sleep", "600", options=tree) as full_id:
        done = docker.command("exec", full_id, "sh", "-c", script, check=False)

    assert f"{full_id}/a/{forged}" in done.out
    assert "403 Forbidden" in done.err
    (event,) = blocked(webguard, "?deeper")
    assert event["container"]["id"] == full_id
    assert_only_the_proxy_asked(origin, [event])
