"""Plain runc, without any engine: a bundle made by hand, known from cgroups and /proc alone."""

import json
import re
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import assert_only_the_proxy_asked, blocked, serve_eicar
from tests.system.host import cgroups, images
from tests.system.host.origin import ORIGIN_V4, Origin
from tests.system.host.testhost import TestHost
from tests.system.product import Webguard, running, wait_until

pytestmark = pytest.mark.system

IDLE = ("sleep", "600")


class Runc:
    """Containers that only runc and the kernel know."""

    def __init__(self, host: TestHost) -> None:
        self._host = host
        self._root = host.folder / "runc-root"
        self._root.mkdir()
        with tarfile.open(images.busybox(host.folder)) as archive:
            archive.extractall(self._root, filter="tar")
        self.parent = f"{host.name}.runc"

    @contextmanager
    def container(
        self, id_: str, *argv: str, cgroup: str | None, network: str = "host"
    ) -> Iterator[Path]:
        """A container that runs: the file with its output. Deleted at the end.

        `cgroup` is its path; None leaves it to runc.
        """
        bundle = self._bundle(id_, argv, cgroup, network)
        log = bundle / "log"
        with log.open("wb") as output:
            process = self._host.spawn(
                ["runc", "run", "--bundle", bundle, id_],
                stdout=output.fileno(),
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: self.state(id_).get("status") == "running" or process.poll() == 1)
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            self._host.run(["runc", "delete", "--force", id_], check=False)
            process.wait(20)

    def state(self, id_: str) -> dict[str, Any]:
        """What runc says."""
        done = self._host.run(["runc", "state", id_], check=False)
        return dict(json.loads(done.out)) if done.code == 0 else {}

    def _bundle(self, id_: str, argv: tuple[str, ...], cgroup: str | None, network: str) -> Path:
        bundle = self._host.folder / f"bundle-{secrets.token_hex(4)}"
        bundle.mkdir()
        self._host.run(["runc", "spec", "--bundle", bundle])
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"]["terminal"] = False
        spec["process"]["args"] = list(argv)
        spec["root"] = {"path": str(self._root), "readonly": True}
        if network == "host":
            kinds = spec["linux"]["namespaces"]
            spec["linux"]["namespaces"] = [each for each in kinds if each["type"] != "network"]
        if cgroup is not None:
            spec["linux"]["cgroupsPath"] = cgroup
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle


@pytest.fixture(scope="module")
def runc(host: TestHost) -> Iterator[Runc]:
    runc = Runc(host)
    try:
        yield runc
    finally:
        cgroups.remove_everywhere(runc.parent)


@pytest.fixture(scope="module")
def webguard(host: TestHost, runc: Runc, webguard_installed: Path) -> Iterator[Webguard]:
    settings = {"runtimes": {"docker": "/run/nobody.sock"}}
    with running(host, webguard_installed, [runc.parent], settings) as daemon:
        yield daemon


@pytest.fixture
def eicar(origin: Origin) -> str:
    return serve_eicar(origin)


def fetching(query: str, *, wait: int = 0) -> tuple[str, ...]:
    """What asks for EICAR after so many seconds, and stays."""
    asked = f"GET /eicar{query} HTTP/1.0\\r\\nHost: {ORIGIN_V4}\\r\\n\\r\\n"
    fetch = f"{{ echo -en '{asked}'; sleep 5; }} | nc {ORIGIN_V4} 80"
    return ("sh", "-c", f"sleep {wait}; {fetch}; exec sleep 600")


def full_id() -> str:
    return secrets.token_hex(32)


def listed(webguard: Webguard) -> dict[str, dict[str, Any]]:
    answered = json.loads(webguard.command("containers", "--json").out)["containers"]
    return {each["id"]: each for each in answered}


@pytest.mark.parametrize("id_", ["shop_1.a", full_id()], ids=["a free name", "64 hex digits"])
def test_below_a_listed_parent_a_containers_first_packet_gets_the_block_page(
    webguard: Webguard, runc: Runc, origin: Origin, eicar: str, id_: str
) -> None:
    query = f"?{secrets.token_hex(8)}"
    with runc.container(id_, *fetching(query), cgroup=f"/{runc.parent}/{id_}") as log:
        (event,) = blocked(webguard, query)
        wait_until(lambda: "\r\n\r\n" in log.read_bytes().decode())
        said = log.read_bytes().decode()
        pid = runc.state(id_)["pid"]
        known = listed(webguard)

    assert re.match(r"HTTP/1\.[01] 403 ", said)
    assert event["id"] in said
    container = event["container"]
    assert (container["runtime"], container["id"], container["pid"]) == ("proc", id_, pid)
    assert container["network"] == "host"
    assert known[id_]["inspected"]
    assert_only_the_proxy_asked(origin, [event])


@pytest.mark.parametrize("given", [True, False], ids=["a path in config.json", "runc's own path"])
def test_elsewhere_a_container_is_known_by_64_hex_digits(
    webguard: Webguard, host: TestHost, runc: Runc, eicar: str, given: bool
) -> None:
    """Found by inotify, which is a race: so its first packet waits a moment."""
    query, id_ = f"?{secrets.token_hex(8)}", full_id()
    path = f"/{host.name}.elsewhere/{id_}" if given else None
    try:
        with runc.container(id_, *fetching(query, wait=2), cgroup=path):
            (event,) = blocked(webguard, query)
            known = listed(webguard)
    finally:
        cgroups.remove_everywhere(f"{host.name}.elsewhere")

    assert (event["container"]["runtime"], event["container"]["id"]) == ("proc", id_)
    assert known[id_]["inspected"]


def test_elsewhere_a_free_name_is_no_containers(
    webguard: Webguard, host: TestHost, runc: Runc, origin: Origin, eicar: str
) -> None:
    """Nothing tells it from any other cgroup; list its parent (docs/operate.md)."""
    query, id_ = f"?{secrets.token_hex(8)}", f"shop-{secrets.token_hex(4)}"
    try:
        path = f"/{host.name}.elsewhere/{id_}"
        with runc.container(id_, *fetching(query, wait=2), cgroup=path) as log:
            wait_until(lambda: "EICAR-STANDARD" in log.read_text())
            assert id_ not in listed(webguard)
    finally:
        cgroups.remove_everywhere(f"{host.name}.elsewhere")


def test_a_container_with_a_network_of_its_own_is_listed_as_not_inspected(
    webguard: Webguard, runc: Runc
) -> None:
    with runc.container("alone", *IDLE, cgroup=f"/{runc.parent}/alone", network="private"):
        known = listed(webguard)["alone"]

    assert (known["runtime"], known["network"], known["inspected"]) == ("proc", "private", False)
    assert "it has its own network" in known["why_not"]


def test_a_container_that_is_run_again_is_another_run(
    webguard: Webguard, runc: Runc, origin: Origin, eicar: str
) -> None:
    query = f"?{secrets.token_hex(8)}"
    for count in (1, 2):
        with runc.container("again", *fetching(query), cgroup=f"/{runc.parent}/again"):
            blocked(webguard, query, count)
        wait_until(lambda: "again" not in listed(webguard))

    events = blocked(webguard, query, 2)
    runs = {(each["container"]["started"], *each["container"]["cgroups"]) for each in events}
    assert {each["container"]["id"] for each in events} == {"again"}
    assert len(runs) == 2
    assert_only_the_proxy_asked(origin, events)
