"""However the daemon ends, the host is as it was, and nobody gets what was others'."""

import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netiso.redirect import Redirect, render_closed, render_web
from tests.system.host.cgroups import v2_root
from tests.system.host.docker import Docker
from tests.system.host.origin import ORIGIN_V4, ORIGIN_V6, Origin
from tests.system.host.picture import Snapshot
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system

PORT = 13128
REFUSED = 7  # CURLE_COULDNT_CONNECT
UNREACHABLE = 5  # our own exit code
BOTH = [ORIGIN_V4, f"[{ORIGIN_V6}]"]


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def neighbour(docker: Docker) -> Iterator[str]:
    """A container that lives on through whatever befalls the daemon."""
    with docker.container(docker.busybox, "sleep", "3600") as full_id:
        yield full_id


@pytest.fixture(scope="module")
def before(host: TestHost, webguard_installed: Path, box: Cgroup, neighbour: str) -> Snapshot:
    """The host with the kernel's modules loaded: they bring sysctls, and stay."""
    trial = Redirect(instance="trial", generation=1, proxy_port=2, ports=(3,), closed=True)
    rules = f"{render_web(trial)}add table inet trial_closed_1\n{render_closed(trial)}"
    host.run(["nft", "-c", "-f", "-"], stdin=rules.encode())
    host.cgroup("thief")
    return host.snapshot()


@pytest.fixture(autouse=True)
def clean(host: TestHost, before: Snapshot) -> Iterator[None]:
    """No test leaves its traces to the next; what was there before, an engine's say, stays."""
    yield
    tables = {each for each in host.snapshot().tables - before.tables if each.count(":") == 0}
    for table in tables:
        host.run(["nft", "delete", *table.split()])
    assert left(host, before) == []


def left(host: TestHost, before: Snapshot) -> list[str]:
    """What is on the host that was not, one line each, and what is gone.

    The machine has one cgroup tree: suites of other checkouts have self-tests in it too.
    """
    return [each for each in host.snapshot() - before if not is_anothers(host, each)]


def comes_back(host: TestHost, before: Snapshot, timeout: float) -> None:
    """Fail, with what is different, unless the host is as it was within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while (found := left(host, before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == []


def is_anothers(host: TestHost, line: str) -> bool:
    """Whether a line is about the self-test's cgroup of a webguard in another network."""
    sign, _, folder = line.partition(" cgroups: ")
    if not folder.startswith(str(v2_root() / "webguard-selftest")):
        return False
    if sign == "-":
        return True  # it was there before ours began
    ours = Path(f"/proc/{host.pid}/ns/net").stat().st_ino
    try:
        inside = Path(folder, "cgroup.procs").read_text().split()
        return any(Path(f"/proc/{pid}/ns/net").stat().st_ino != ours for pid in inside)
    except OSError:  # it went while we looked; an empty one of ours would stay
        return not Path(folder).exists()


@contextmanager
def started(host: TestHost, program: Path, box: Cgroup, on_failure: str) -> Iterator[Webguard]:
    parents = [box.below_root, host.docker.cgroup_parent.strip("/")]
    with running(host, program, parents, {"web": {"on_failure": on_failure}}) as daemon:
        yield daemon


@contextmanager
def thief(host: TestHost) -> Iterator[Path]:
    """A process of another container that wants the proxy's port; yields what it says."""
    said = host.folder / "thief"
    script = Path(__file__).parent / "thief.py"
    program: list[str | Path] = [sys.executable, "-I", "-S", script, str(PORT)]
    with said.open("wb") as output:
        process = host.spawn(program, cgroup=host.cgroup("thief"), stdout=output.fileno())
    try:
        yield said
    finally:
        process.kill()
        process.wait(10)


def lines(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


def kill(webguard: Webguard) -> None:
    webguard.process.kill()
    webguard.process.wait(10)


def asked_by(host: TestHost, container: str) -> str:
    """What a container gets of /clean, and what it complains of."""
    ask = ("exec", container, "wget", "-qO-", f"http://{ORIGIN_V4}/clean")
    done = host.docker.command(*ask, check=False)
    return done.out + done.err


@pytest.mark.parametrize(
    ("number", "on_failure"),
    [
        pytest.param(number, on_failure, id=f"{number.name}-{on_failure}")
        for number in (signal.SIGINT, signal.SIGTERM)
        for on_failure in ("open", "closed")
    ]
    # The terminal is gone.
    + [pytest.param(signal.SIGHUP, "closed", id="SIGHUP-closed")],
)
def test_a_stop_leaves_nothing(
    host: TestHost,
    webguard_installed: Path,
    box: Cgroup,
    origin: Origin,
    before: Snapshot,
    neighbour: str,
    number: signal.Signals,
    on_failure: str,
) -> None:
    origin.serve("/clean", b"clean")
    with started(host, webguard_installed, box, on_failure) as webguard:
        assert curl(box, f"http://{ORIGIN_V4}/clean").err == "200"
        assert asked_by(host, neighbour) == "clean"
        webguard.wait_for(lambda found: neighbour in str(found), kind="web.passed")
        assert left(host, before) != [], "or the picture shows nothing of ours"

        with host.folder.joinpath("followed").open("wb") as followed:
            # It would go on for ever, and must not hold the end up.
            follower = host.spawn(
                [webguard_installed, "events", "--follow"], stdout=followed.fileno()
            )
            wait_until(lambda: (host.folder / "followed").stat().st_size > 0)
            code = webguard.stop(number)

    assert code == 0
    assert follower.wait(10) == UNREACHABLE
    assert left(host, before) == []
    said = webguard.errors.read_text()
    assert "Traceback" not in said
    for kept in ("/var/lib/webguard", "/opt/webguard", "/etc/webguard", "webguard-signer"):
        assert kept in said.partition("What stays")[2]
    assert len(webguard.events(kind="daemon.stopping")) == 1
    assert curl(box, f"http://{ORIGIN_V4}/clean").out == "clean"
    assert asked_by(host, neighbour) == "clean"


@pytest.mark.parametrize("on_failure", ["open", "closed"])
def test_a_killed_daemon_leaves_nothing_to_steal(
    host: TestHost,
    webguard_installed: Path,
    box: Cgroup,
    origin: Origin,
    before: Snapshot,
    neighbour: str,
    on_failure: str,
) -> None:
    for path in ("/clean", "/other"):
        origin.serve(path, b"clean")
    asking = f"while :; do curl -s -m 2 http://{ORIGIN_V4}/clean http://{BOTH[1]}/clean; done"
    with started(host, webguard_installed, box, on_failure) as webguard, thief(host) as got:
        traffic = box.spawn(["sh", "-c", f"exec >/dev/null; {asking}"])
        try:
            time.sleep(0.5)
            assert got.read_text() == "", "it must not share the port with a living daemon"
            kill(webguard)
            wait_until(lambda: {"listens 127.0.0.1", "listens ::1"} <= lines(got))
            answers = [curl(box, f"http://{each}/clean") for each in BOTH * 5]
            of_neighbour = asked_by(host, neighbour)
        finally:
            traffic.kill()
            traffic.wait(10)
        time.sleep(2)
        assert [each for each in lines(got) if each.startswith("got")] == []
    expected = (0, "200") if on_failure == "open" else (REFUSED, "000")
    assert {(each.code, each.err.splitlines()[-1][-3:]) for each in answers} == {expected}
    assert (of_neighbour == "clean") == (on_failure == "open"), of_neighbour
    found = left(host, before)
    assert [each for each in found if "webguard_closed_" not in each] == []
    assert (found == []) == (on_failure == "open")


def test_what_is_shut_opens_with_the_next_start_and_goes_with_its_stop(
    host: TestHost, webguard_installed: Path, box: Cgroup, origin: Origin, before: Snapshot
) -> None:
    origin.serve("/clean", b"clean")
    with started(host, webguard_installed, box, "closed") as webguard:
        kill(webguard)
    wait_until(lambda: not host.path("/run/webguard").exists())

    for address in BOTH:
        assert curl(box, f"http://{address}/clean").code == REFUSED
    assert curl(box, f"http://{ORIGIN_V4}:9999/").err.endswith("000")
    assert host.run(["curl", "-s", f"http://{ORIGIN_V4}/clean"]).out == "clean"
    assert own_loopback(box) == "fine"

    with started(host, webguard_installed, box, "open") as webguard:
        assert curl(box, f"http://{ORIGIN_V4}/clean").err == "200"
        webguard.wait_for(lambda found: found != [], kind="web.passed")
        webguard.stop()
    assert left(host, before) == []
    assert curl(box, f"http://{ORIGIN_V4}/clean").out == "clean"


def own_loopback(box: Cgroup) -> str:
    """What a container gets from a service of its own on the loopback's port 80."""
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 80));"
        "c = socket.create_connection(('127.0.0.1', 80)); a, _ = s.accept();"
        "a.send(b'fine'); print(c.recv(9).decode(), end='')"
    )
    return box.run([sys.executable, "-I", "-c", program]).out


@pytest.mark.parametrize("attempt", range(4))
def test_a_daemon_that_is_killed_while_it_starts_leaves_nothing(
    host: TestHost, webguard_installed: Path, box: Cgroup, before: Snapshot, attempt: int
) -> None:
    # From before the lock is taken until after containers are redirected.
    after = 0.6 + 0.6 * attempt + random.uniform(0, 0.6)
    with running(host, webguard_installed, [box.below_root], wait=False) as webguard:
        time.sleep(after)
        kill(webguard)

    comes_back(host, before, timeout=3)


def test_a_start_may_follow_a_kill_at_once(
    host: TestHost, webguard_installed: Path, box: Cgroup, before: Snapshot
) -> None:
    with running(host, webguard_installed, [box.below_root], wait=False) as webguard:
        wait_until(lambda: webguard.children("webguard.daemon.worker") != [], timeout=60)
        kill(webguard)
    with started(host, webguard_installed, box, "open") as successor:
        assert successor.status()["protected"]
        assert host.path("/run/webguard/control.sock").exists()

    assert left(host, before) == []


def test_a_start_can_be_stopped(
    host: TestHost, webguard_installed: Path, box: Cgroup, before: Snapshot
) -> None:
    with running(host, webguard_installed, [box.below_root], wait=False) as webguard:
        wait_until(lambda: webguard.children("webguard.daemon.worker") != [], timeout=60)
        webguard.stop(signal.SIGINT)

    assert left(host, before) == []
    assert "Traceback" not in webguard.errors.read_text()
