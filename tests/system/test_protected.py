"""That a host is protected is measured: what breaks it is noticed, named, and mended if it can."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.host.origin import EICAR, GOOD, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.owning import Owner, key
from tests.system.product import Event, Webguard, curl, running, wait_until
from webguard.cli.ask import ask

pytestmark = pytest.mark.system

PROMISE = 2.0  # seconds after which "protected" is no longer said
PORT = 13128
OPEN = pytest.mark.parametrize("webguard", ["open"], indirect=True)
CLOSED = pytest.mark.parametrize("webguard", ["closed"], indirect=True)


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(
    host: TestHost, webguard_installed: Path, box: Cgroup, request: pytest.FixtureRequest
) -> Iterator[Webguard]:
    """A daemon for each value of `on_failure`, one after the other."""
    settings = {"web": {"on_failure": request.param}}
    with running(host, webguard_installed, [box.below_root], settings) as daemon:
        yield daemon


@pytest.fixture
def protected(webguard: Webguard) -> Webguard:
    """The daemon, once it has recovered from the last test."""
    wait_until(lambda: bool(status(webguard)["protected"]))
    return webguard


def status(webguard: Webguard) -> dict[str, Any]:
    """By the control socket itself: the command needs a second for its start."""
    return ask(webguard.host.path("/run/webguard/control.sock"), "/v1/status")


def is_lost(webguard: Webguard, breaking: Callable[[], object]) -> str:
    """Break something; return why protection was lost, which must be said in time."""
    began = time.time()
    breaking()
    last = time.time()
    while status(webguard)["protected"]:
        last = time.time()
        assert last - began < PROMISE + 5, "it is still said"
        time.sleep(0.02)
    (event, *_) = webguard.wait_for(
        lambda found: since(found, began) != [], kind="protection.lost"
    )[-1:]
    assert last - began < PROMISE
    assert event["at"] / 1e9 - began < PROMISE
    return str(event["outcome"])


def comes_back(webguard: Webguard, since_when: float, timeout: float = 20) -> None:
    webguard.wait_for(
        lambda found: since(found, since_when) != [], kind="protection.on", timeout=timeout
    )
    assert status(webguard)["protected"]


def since(events: list[Event], when: float) -> list[Event]:
    return [each for each in events if each["at"] >= when * 1e9]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def infected(box: Cgroup, origin: Origin, scheme: str = "http") -> str:
    """The status that a container gets for malware; the origin's own would be 200."""
    origin.serve("/infected", EICAR)
    name = ORIGIN_V4 if scheme == "http" else GOOD
    trust = ["--cacert", "/etc/ssl/certs/ESET-SSL-Filter-CA.pem"] if scheme == "https" else []
    return curl(box, f"{scheme}://{name}/infected", *trust).err


@OPEN
def test_a_worker_has_seen_probes_before_it_is_said(protected: Webguard) -> None:
    first = protected.events(kind="protection.on")[0]
    assert first["at"] >= protected.events(kind="daemon.started")[0]["at"]
    # Workers count once a second.
    wait_until(lambda: all(each["probes"] > 0 for each in status(protected)["workers"]))
    assert protected.host.run([protected.program, "status"]).out.startswith("PROTECTED")


@OPEN
@pytest.mark.parametrize("what", ["the container", "the self-test", "live"])
def test_an_element_that_is_missing_is_noticed(
    protected: Webguard, box: Cgroup, origin: Origin, what: str
) -> None:
    owner = Owner(protected.pid)
    if what == "live":
        name, keys = "live", owner.elements("web", "live")
    elif what == "the container":
        name, keys = "cg2", frozenset({key(box.id)})
    else:
        name, keys = "cg1", owner.elements("web", "cg1")
    assert keys <= owner.elements("web", name)

    why = is_lost(protected, lambda: owner.change("web", name, keys, remove=True))

    assert f"set {name}" in why
    again = time.time()
    owner.change("web", name, keys, remove=False)
    comes_back(protected, again)
    assert infected(box, origin) == "403"


@OPEN
def test_another_firewall_that_stands_in_the_way_is_noticed(
    protected: Webguard, host: TestHost
) -> None:
    rules = (
        "table inet foe { chain in { type filter hook input priority -10; "
        f"tcp dport {PORT} drop; }}; }}"
    )
    try:
        why = is_lost(protected, lambda: host.run(["nft", "-f", "-"], stdin=rules.encode()))
    finally:
        again = time.time()
        host.run(["nft", "delete", "table", "inet", "foe"])

    assert re.search("the self-test over IPv[46] was not seen by a worker", why)
    comes_back(protected, again)


@OPEN
def test_stopped_workers_are_noticed_and_go_on(
    protected: Webguard, box: Cgroup, origin: Origin
) -> None:
    workers = protected.workers()

    with stopped(workers):
        why = is_lost(protected, lambda: None)
        again = time.time()

    assert "self-test" in why or "do not report" in why
    comes_back(protected, again)
    assert protected.workers() == workers
    assert infected(box, origin) == "403"


@OPEN
def test_hung_workers_are_replaced_and_traffic_flows_meanwhile(
    protected: Webguard, box: Cgroup, origin: Origin
) -> None:
    workers = protected.workers()
    began = time.time()
    direct = 0

    def happened(kind: str) -> bool:
        return since(protected.events(kind=kind), began) != []

    with stopped(workers):
        wait_until(lambda: happened("interception.off"), timeout=20)
        while not happened("interception.on"):
            direct += infected(box, origin) == "200"
            assert time.time() - began < 60, "the redirect does not come back"

    assert direct > 0
    comes_back(protected, began)
    kinds = [each["kind"] for each in since(protected.events(), began)]
    wanted = ["protection.lost", "interception.off", "worker.ended", "interception.on"]
    assert [each for each in kinds if each in wanted] == wanted
    assert set(protected.workers()).isdisjoint(workers)
    assert infected(box, origin) == "403"


@OPEN
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("module", ["worker", "signer"])
def test_what_is_killed_is_restarted_and_connections_work_at_once(
    protected: Webguard, box: Cgroup, origin: Origin, module: str, scheme: str
) -> None:
    began = time.time()
    (pid,) = protected.children(f"webguard.daemon.{module}")

    os.kill(pid, signal.SIGKILL)
    said = infected(box, origin, scheme)

    assert said == "403"
    ended = protected.wait_for(lambda found: since(found, began) != [], kind=f"{module}.ended")
    assert "-9" in ended[-1]["outcome"]
    wait_until(lambda: protected.children(f"webguard.daemon.{module}") not in ([], [pid]))
    wait_until(lambda: bool(status(protected)["protected"]))


@CLOSED
def test_closed_hung_workers_keep_the_ports_shut(
    protected: Webguard, box: Cgroup, host: TestHost, origin: Origin
) -> None:
    origin.serve("/infected", EICAR)
    began = time.time()
    refused = 0

    def happened(kind: str) -> bool:
        return since(protected.events(kind=kind), began) != []

    with stopped(protected.workers()):
        wait_until(lambda: happened("interception.off"), timeout=20)
        while not happened("interception.on"):
            done = curl(box, f"http://{ORIGIN_V4}/infected")
            refused += done.code == 7  # CURLE_COULDNT_CONNECT
            assert "EICAR" not in done.out
            assert time.time() - began < 60, "the redirect does not come back"

    assert refused > 0
    comes_back(protected, began)


@CLOSED
def test_a_rule_that_is_missing_is_noticed_and_no_worker_blamed(
    protected: Webguard, box: Cgroup, origin: Origin
) -> None:
    """The last of this daemon: only a restart puts the rule back."""
    workers = protected.workers()
    began = time.time()

    why = is_lost(protected, lambda: Owner(protected.pid).delete_rules("web", "redirected"))

    assert "chain redirected" in why
    wait_until(
        lambda: any("self-test" in each for each in status(protected)["missing"]), timeout=10
    )
    time.sleep(7)  # longer than workers may be silent
    assert protected.workers() == workers
    assert since(protected.events(kind="worker.ended"), began) == []
    # The redirect is gone, the closed table is not.
    assert curl(box, f"http://{ORIGIN_V4}/").code == 7
    done = protected.command("status", check=False)
    assert (done.code, done.out.splitlines()[0]) == (1, "NOT PROTECTED")
