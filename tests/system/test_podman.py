"""Podman's containers: inspected like any, called what Podman calls them, whoever answers."""

import json
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import assert_only_the_proxy_asked, blocked, serve_eicar
from tests.system.host.origin import ORIGIN_V4, Origin
from tests.system.host.podman import Podman
from tests.system.host.testhost import TestHost
from tests.system.product import Webguard, running, wait_until

pytestmark = pytest.mark.system

IDLE = ("sleep", "600")


@pytest.fixture(scope="module")
def podman(host: TestHost) -> Iterator[Podman]:
    with Podman.opened(host) as opened:
        yield opened


@pytest.fixture(scope="module")
def webguard(host: TestHost, podman: Podman, webguard_installed: Path) -> Iterator[Webguard]:
    # There is no Docker in this, whatever other tests have started.
    settings = {"runtimes": {"docker": "/run/nobody.sock"}}
    with running(host, webguard_installed, [podman.cgroup_parent.strip("/")], settings) as daemon:
        yield daemon


@pytest.fixture
def eicar(origin: Origin) -> str:
    return serve_eicar(origin)


def fetching(query: str) -> tuple[str, ...]:
    """What asks for EICAR with its very first packet, and stays; `answer` reads what it got."""
    asked = f"GET /eicar{query} HTTP/1.0\\r\\nHost: {ORIGIN_V4}\\r\\n\\r\\n"
    return ("sh", "-c", f"{{ echo -en '{asked}'; sleep 5; }} | nc {ORIGIN_V4} 80; exec sleep 600")


def answer(podman: Podman, full_id: str) -> str:
    """What the container got, once it has it."""
    wait_until(lambda: "\r\n\r\n" in podman.command("logs", full_id).out, 30)
    return podman.command("logs", full_id).out


def listed(webguard: Webguard, full_id: str) -> dict[str, Any]:
    """A container as the daemon knows it without asking the engine now."""
    found = [each for each in webguard.status()["containers"] if each["id"] == full_id]
    return dict(found[0]) if found else {}


def test_a_containers_first_packet_gets_the_block_page_and_the_event_says_whose_it_was(
    webguard: Webguard, podman: Podman, origin: Origin, eicar: str
) -> None:
    query, name = f"?{secrets.token_hex(8)}", f"shop-{secrets.token_hex(4)}"
    options = ("--name", name, "--label", "team=shop")
    with podman.container(podman.busybox, *fetching(query), options=options) as full_id:
        said = answer(podman, full_id)
        (event,) = blocked(webguard, query)

    assert re.match(r"HTTP/1\.[01] 403 ", said)
    assert event["id"] in said
    assert "EICAR-STANDARD-ANTIVIRUS" not in said
    container = event["container"]
    assert (container["runtime"], container["id"]) == ("podman", full_id)
    assert (container["name"], container["network"]) == (name, "host")
    assert container["image"] == podman.busybox
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", container["image_digest"])
    assert ["team", "shop"] in container["labels"]
    assert_only_the_proxy_asked(origin, [event])


def test_containers_with_a_network_of_their_own_are_listed_as_not_inspected(
    webguard: Webguard, podman: Podman
) -> None:
    with (
        podman.container(podman.busybox, *IDLE, options=("--name", "in-host")) as in_host,
        podman.container(podman.busybox, *IDLE, network="bridge") as bridged,
        podman.container(podman.busybox, *IDLE, network="none") as alone,
        podman.container(podman.busybox, *IDLE, network=f"container:{in_host}") as guest,
    ):
        answered = json.loads(webguard.command("containers", "--json").out)["containers"]

    known = {each["id"]: each for each in answered}
    facts = {
        each: (known[each]["runtime"], known[each]["network"], known[each]["inspected"])
        for each in (in_host, bridged, alone, guest)
    }
    assert facts == {
        in_host: ("podman", "host", True),
        guest: ("podman", "host", True),
        bridged: ("podman", "private", False),
        alone: ("podman", "private", False),
    }
    assert known[in_host]["name"] == "in-host"
    assert "it has its own network" in known[bridged]["why_not"]


def test_a_pod_is_its_containers_and_the_infra_container_and_never_the_monitor(
    webguard: Webguard, podman: Podman, origin: Origin, eicar: str
) -> None:
    query = f"?{secrets.token_hex(8)}"
    with (
        podman.pod("cart") as pod,
        podman.in_pod("cart", *fetching(query), options=("--name", "cart-web")) as full_id,
    ):
        assert answer(podman, full_id).startswith("HTTP/1.")
        (event,) = blocked(webguard, query)
        known = {
            each["id"]: each
            for each in json.loads(webguard.command("containers", "--json").out)["containers"]
        }
        template = "{{.State.Pid}} {{.State.ConmonPid}} {{.State.CgroupPath}}"
        said = podman.command("inspect", "--format", template, full_id).out.split()

    assert (event["container"]["id"], event["container"]["name"]) == (full_id, "cart-web")
    assert event["container"]["runtime"] == "podman"
    # Its id until the list has told its name.
    assert event["container"]["pod"] in ("cart", pod)
    assert said[2] == f"{podman.cgroup_parent}/{pod}/libpod-{full_id}"
    assert pod not in known
    assert known[full_id]["pid"] == int(said[0])
    assert int(said[1]) not in {each["pid"] for each in known.values()}
    assert f"{pod[:12]}-infra" in {each["name"] for each in known.values()}
    assert_only_the_proxy_asked(origin, [event])


def test_names_follow_podmans_events(webguard: Webguard, podman: Podman) -> None:
    """Nothing connects and nothing is asked here, and no cgroup changes with a name."""
    with podman.container(podman.busybox, *IDLE, options=("--name", "old")) as full_id:
        wait_until(lambda: listed(webguard, full_id).get("name") == "old")
        podman.command("rename", "old", "new")
        wait_until(lambda: listed(webguard, full_id).get("name") == "new")
    wait_until(lambda: listed(webguard, full_id) == {})


def test_after_a_restart_a_container_is_the_same_with_another_run(
    webguard: Webguard, podman: Podman, origin: Origin, eicar: str
) -> None:
    query = f"?{secrets.token_hex(8)}"
    with podman.container(podman.busybox, *fetching(query)) as full_id:
        blocked(webguard, query)
        podman.command("restart", "--time", "0", full_id)
        events = blocked(webguard, query, 2)

    assert {(each["container"]["runtime"], each["container"]["id"]) for each in events} == {
        ("podman", full_id)
    }
    runs = {(each["container"]["started"], *each["container"]["cgroups"]) for each in events}
    assert len(runs) == 2
    assert_only_the_proxy_asked(origin, events)


@pytest.fixture
def well_again(webguard: Webguard, podman: Podman) -> Iterator[None]:
    """The service answers at the end, and webguard knows, whatever the test did."""
    yield
    podman.stop()
    podman.start()
    wait_until(lambda: not names_missing(webguard), 30)


def names_missing(webguard: Webguard) -> str:
    return " ".join(each for each in webguard.status()["not_covered"] if "names of" in each)


@pytest.mark.usefixtures("well_again")
def test_without_the_service_containers_are_inspected_and_keep_the_names_that_were_known(
    webguard: Webguard, podman: Podman, origin: Origin, eicar: str
) -> None:
    query = f"?{secrets.token_hex(8)}"
    with podman.container(podman.busybox, *IDLE, options=("--name", "before")) as before:
        wait_until(lambda: listed(webguard, before).get("name") == "before")
        podman.stop()
        with podman.container(
            podman.busybox, *fetching(query), options=("--name", "while")
        ) as meanwhile:
            (event,) = blocked(webguard, query)
            assert (event["container"]["id"], event["container"]["runtime"]) == (
                meanwhile,
                "podman",
            )
            assert "name" not in event["container"]
            wait_until(lambda: "Podman engine at" in names_missing(webguard))
            assert listed(webguard, before)["name"] == "before"
            assert webguard.status()["protected"]

            podman.start()
            wait_until(lambda: listed(webguard, meanwhile).get("name") == "while", 30)
            assert names_missing(webguard) == ""
            podman.command("rename", "while", "after")  # and it is listened to again
            wait_until(lambda: listed(webguard, meanwhile).get("name") == "after", 30)


@pytest.mark.usefixtures("well_again")
def test_a_service_that_hangs_costs_names_for_a_while_and_nothing_else(
    webguard: Webguard, podman: Podman, origin: Origin, eicar: str
) -> None:
    query = f"?{secrets.token_hex(8)}"
    podman.signal(signal.SIGSTOP)
    with podman.container(podman.busybox, *fetching(query), options=("--name", "late")) as full_id:
        assert re.match(r"HTTP/1\.[01] 403 ", answer(podman, full_id))
        (event,) = blocked(webguard, query)
        assert (event["container"]["id"], event["container"]["runtime"]) == (full_id, "podman")
        assert "name" not in event["container"]
        wait_until(lambda: "it does not answer" in names_missing(webguard), 30)
        assert webguard.status()["protected"]

        podman.signal(signal.SIGCONT)
        wait_until(lambda: listed(webguard, full_id).get("name") == "late", 30)
        assert names_missing(webguard) == ""
