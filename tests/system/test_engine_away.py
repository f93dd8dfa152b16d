"""Interception without what usually helps: no exclusive parent, no engine, or one that hangs."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import blocked, box_of, restart_again_and_again, serve_eicar
from tests.system.host.docker import Docker
from tests.system.host.origin import Origin
from tests.system.host.testhost import TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def eicar(origin: Origin) -> str:
    return serve_eicar(origin)


def test_without_an_exclusive_parent_restarts_are_followed_one_by_one(
    host: TestHost, docker: Docker, webguard_installed: Path, origin: Origin, eicar: str
) -> None:
    """Each container's cgroup is found by its name, and put into a set when inotify tells.

    That is a race, usually won and never promised: so the container waits a moment
    before its first packet here, and what is shown is that no stale id is left.
    """
    elsewhere = host.cgroup("elsewhere").below_root
    with running(host, webguard_installed, [elsewhere]) as daemon:
        restart_again_and_again(daemon, docker, origin, eicar, wait="sleep 1;")


class Engine:
    """The private dockerd. When it hangs it still takes connections, and never answers."""

    def __init__(self, host: TestHost) -> None:
        self._pid = int(host.path("/run/docker.pid").read_text())

    def hang(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest.fixture
def engine(host: TestHost, docker: Docker) -> Iterator[Engine]:
    """Goes on at the end, whatever the test did."""
    engine = Engine(host)
    try:
        yield engine
    finally:
        engine.go_on()


def listed(webguard: Webguard, full_id: str) -> dict[str, Any]:
    """A container as the daemon knows it without asking the engine now."""
    found = [each for each in webguard.status()["containers"] if each["id"] == full_id]
    return dict(found[0]) if found else {}


def test_an_engine_that_hangs_costs_names_for_a_while_and_nothing_else(
    host: TestHost,
    docker: Docker,
    webguard_installed: Path,
    origin: Origin,
    eicar: str,
    engine: Engine,
) -> None:
    parent = docker.cgroup_parent.strip("/")
    named = ("--name", "shop")
    with docker.container(docker.busybox, "sleep", "600", options=named) as full_id:
        box = box_of(host, docker, full_id)
        engine.hang()
        try:
            with running(host, webguard_installed, [parent]) as daemon:
                assert curl(box, f"{eicar}?nameless").err == "403"
                (event,) = blocked(daemon, "?nameless")
                assert event["container"]["id"] == full_id
                assert "name" not in event["container"]
                assert "it does not answer" in " ".join(daemon.status()["not_covered"])

                engine.go_on()
                wait_until(lambda: listed(daemon, full_id).get("name") == "shop", 30)
                wait_until(lambda: "names of" not in " ".join(daemon.status()["not_covered"]))

                engine.hang()
                daemon.command("containers")  # which asks the engine, in vain
                assert "it does not answer" in " ".join(daemon.status()["not_covered"])
                assert curl(box, f"{eicar}?named").err == "403"
                (event,) = blocked(daemon, "?named")
                assert (event["container"]["id"], event["container"]["name"]) == (full_id, "shop")
                assert daemon.status()["protected"]
        finally:
            engine.go_on()


def test_without_an_engine_containers_are_known_by_id(
    host: TestHost, docker: Docker, webguard_installed: Path, origin: Origin, eicar: str
) -> None:
    parent = docker.cgroup_parent.strip("/")
    nobody = {"runtimes": {"docker": "/run/nobody.sock"}}
    with (
        docker.container(docker.busybox, "sleep", "600", options=("--name", "shop")) as full_id,
        running(host, webguard_installed, [parent], nobody) as daemon,
    ):
        docker.command("exec", full_id, "wget", "-qO-", f"{eicar}?nobody", check=False)
        (event,) = blocked(daemon, "?nobody")
        assert event["container"]["id"] == full_id
        assert "name" not in event["container"]
        assert listed(daemon, full_id)["inspected"]
        assert any("no engine answers" in each for each in daemon.status()["not_covered"])
        assert daemon.command("cert", "status", full_id[:12]).code == 0
        unknown = daemon.command("cert", "status", "shop", check=False)
        assert (unknown.code, "Traceback" in unknown.err) == (3, False)
