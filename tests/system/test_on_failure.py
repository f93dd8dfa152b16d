"""What becomes of traffic when a part of webguard fails, for `on_failure: open` and `closed`.

One row for each part and way to fail. `passes`: the origin's content arrives
unseen; `refused`: no connection; `page`: our own answer, without any content;
`inspected`: nothing is different. What fails has an event, and heals by itself.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host.origin import EICAR, GOOD, ORIGIN_V4, ORIGIN_V6, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system

CA = "/etc/ssl/certs/ESET-SSL-Filter-CA.pem"
WORKER, SIGNER = "webguard.daemon.worker", "webguard.daemon.signer"
KILL, STOP = signal.SIGKILL, signal.SIGSTOP


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module", params=["open", "closed"])
def webguard(
    host: TestHost, webguard_installed: Path, box: Cgroup, request: pytest.FixtureRequest
) -> Iterator[Webguard]:
    # Without an engine: names are all that is missing then.
    settings = {
        "web": {"on_failure": request.param, "drain": 1, "workers": 2},
        "runtimes": {"docker": "/run/no-engine.sock"},
    }
    with running(host, webguard_installed, [box.below_root], settings) as daemon:
        yield daemon


@pytest.fixture
def on_failure(webguard: Webguard) -> str:
    return str(webguard.status()["web"]["on_failure"])


@pytest.fixture
def healthy(webguard: Webguard, origin: Origin) -> Iterator[None]:
    """All is well before, and again afterwards, without anybody's help."""
    origin.serve("/eicar", EICAR)
    origin.serve("/clean", b"clean")
    wait_until(lambda: webguard.status()["protected"], 30)
    yield
    wait_until(lambda: webguard.status()["protected"], 60)


def fate(box: Cgroup, url: str, *options: str) -> str:
    """What becomes of infected content: see the head of the file."""
    done = curl(box, url, "--cacert", CA, *options)
    if EICAR.decode() in done.out:
        return "passes"
    if done.code == 0 and "Eicar" in done.out:
        return "inspected"
    return "page" if done.code == 0 else "refused"


def fates(box: Cgroup, path: str) -> set[str]:
    return {fate(box, f"http://{each}{path}") for each in (ORIGIN_V4, f"[{ORIGIN_V6}]")}


def events(webguard: Webguard) -> list[str]:
    return [each["kind"] for each in webguard.events()]


def new_events(webguard: Webguard, before: int, *wanted: str) -> None:
    """These kinds were told since then, in this order."""

    def told() -> bool:
        kinds = iter(events(webguard)[before:])
        return all(each in kinds for each in wanted)

    try:
        wait_until(told, 60)
    except AssertionError:
        raise AssertionError(f"not {wanted}, but {events(webguard)[before:]}") from None


@pytest.mark.parametrize("number", [KILL, STOP], ids=["killed", "stopped"])
def test_one_worker(webguard: Webguard, box: Cgroup, healthy: None, number: signal.Signals) -> None:
    """The others inspect; it is ended, if it has not, and replaced."""
    before, first = len(events(webguard)), webguard.workers()[0]
    os.kill(first, number)
    assert fates(box, "/eicar") == {"inspected"}
    new_events(webguard, before, "worker.ended")
    assert fates(box, "/eicar") == {"inspected"}
    wait_until(lambda: first not in webguard.workers() and 0 not in webguard.workers(), 60)


@pytest.mark.parametrize("number", [KILL, STOP], ids=["killed", "hung"])
def test_all_workers(
    webguard: Webguard, box: Cgroup, healthy: None, on_failure: str, number: signal.Signals
) -> None:
    """While there are none nothing gets through unseen with `closed`; with `open` it passes."""
    before, all_of_them = len(events(webguard)), webguard.workers()
    for each in all_of_them:
        os.kill(each, number)
    if number is STOP:
        new_events(webguard, before, "interception.off")
        allowed = {"open": {"passes", "inspected"}, "closed": {"refused", "inspected"}}
        assert fates(box, "/eicar") <= allowed[on_failure]
        wanted: tuple[str, ...] = ("interception.off", "worker.ended", "interception.on")
    else:
        # What is redirected already waits for the next worker, which is a moment away.
        assert "passes" not in fates(box, "/eicar") or on_failure == "open"
        wanted = ("worker.ended",)
    new_events(webguard, before, *wanted)
    wait_until(lambda: webguard.status()["protected"], 60)
    assert set(webguard.workers()).isdisjoint(all_of_them)
    assert fates(box, "/eicar") == {"inspected"}


def test_the_daemon_hangs(webguard: Webguard, box: Cgroup, healthy: None) -> None:
    """Its workers inspect without it, and when it goes on it finds all as it was."""
    workers = webguard.workers()
    os.kill(webguard.pid, STOP)
    try:
        met = [fates(box, "/eicar") for _ in range(5)]
    finally:
        os.kill(webguard.pid, signal.SIGCONT)
    assert met == [{"inspected"}] * 5
    wait_until(lambda: webguard.status()["protected"], 30)
    assert webguard.workers() == workers


@pytest.mark.parametrize("number", [KILL, STOP], ids=["killed", "stopped"])
def test_the_signer(webguard: Webguard, box: Cgroup, healthy: None, number: signal.Signals) -> None:
    """HTTP is inspected all the while. HTTPS is where a worker has a leaf, and refused elsewhere.

    Each worker keeps its own leaves, and either may get the connection.
    """
    assert fate(box, f"https://{GOOD}/eicar") == "inspected"
    before, (signer,) = len(events(webguard)), webguard.children(SIGNER)
    os.kill(signer, number)
    assert fates(box, "/eicar") == {"inspected"}
    known = {fate(box, f"https://{GOOD}/eicar") for _ in range(4)}
    assert "inspected" in known
    assert known <= {"inspected", "refused"}
    new_name = f"never-asked-{number}-{before}.test"
    told = ("--insecure", "--resolve", f"{new_name}:443:{ORIGIN_V4}")
    assert fate(box, f"https://{new_name}/eicar", *told) in ("refused", "page")
    new_events(webguard, before, "signer.ended")
    wait_until(lambda: webguard.children(SIGNER) not in ([], [signer]), 30)
    wait_until(lambda: fate(box, f"https://v4.{GOOD}/eicar") == "inspected", 30)


def test_without_an_engine_traffic_is_inspected(
    webguard: Webguard, box: Cgroup, healthy: None
) -> None:
    assert fates(box, "/eicar") == {"inspected"}
    assert any("no engine" in each for each in webguard.status()["not_covered"])


def test_the_daemon_is_killed(
    webguard: Webguard, host: TestHost, box: Cgroup, origin: Origin, on_failure: str
) -> None:
    """The last test of its daemon. The successor says that it was not protected meanwhile."""
    origin.serve("/eicar", EICAR)
    children = [*webguard.children(WORKER), *webguard.children(SIGNER)]
    webguard.process.kill()
    webguard.process.wait(10)
    wait_until(lambda: not any(Path(f"/proc/{each}").exists() for each in children))
    expected = {"open": {"passes"}, "closed": {"refused"}}
    assert fates(box, "/eicar") == expected[on_failure]
    settings = {"web": {"on_failure": on_failure}, "runtimes": {"docker": "/run/no-engine.sock"}}
    with running(host, webguard.program, [box.below_root], settings) as daemon:
        assert fates(box, "/eicar") == {"inspected"}
        kinds = daemon.command("events", "--kind", "daemon").out.splitlines()
        assert "daemon.started" in kinds[-1]
        assert "daemon.started" in kinds[-2]
