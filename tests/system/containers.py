"""What several tests of real containers ask for and assert."""

from tests.system.host import cgroups
from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, HOST_V4, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Event, Webguard

RESTARTS = 30


def serve_eicar(origin: Origin) -> str:
    """Where the origin serves EICAR from now on, whatever the query says."""
    origin.serve("/eicar", EICAR)
    return f"http://{ORIGIN_V4}/eicar"


def blocked(webguard: Webguard, mark: str, count: int = 1) -> list[Event]:
    """The events of requests whose URL bears the mark, once there are so many."""
    found = webguard.wait_for(
        lambda seen: sum(mark in each["subject"] for each in seen) >= count, kind="web.blocked"
    )
    return [each for each in found if mark in each["subject"]]


def assert_only_the_proxy_asked(origin: Origin, events: list[Event]) -> None:
    """No connection reached the origin but one for each event, and none from the client's port."""
    seen = [(each.peer, each.port) for each in origin.connections()]
    clients = [each["http"]["client"].rpartition(":")[2] for each in events]
    assert len(seen) == len(events)
    assert {peer for peer, _ in seen} == {HOST_V4}
    assert {str(port) for _, port in seen}.isdisjoint(clients)


def box_of(host: TestHost, docker: Docker, full_id: str) -> Cgroup:
    """A container's own cgroup: programs run there are its processes to the kernel."""
    return Cgroup(host, cgroups.v2_root() / docker.cgroup_parent.strip("/") / full_id)


def restart_again_and_again(
    webguard: Webguard, docker: Docker, origin: Origin, eicar: str, *, wait: str = ""
) -> None:
    """Restart one container; each run has the same id, another cgroup, and is caught."""
    script = f"{wait} wget -qO- {eicar}?restart; exec sleep 600"
    with docker.container(docker.busybox, "sh", "-c", script) as full_id:
        events = blocked(webguard, "?restart", 1)
        for number in range(RESTARTS):
            docker.command("restart", "--time", "0", full_id)
            events = blocked(webguard, "?restart", number + 2)

        assert {each["container"]["id"] for each in events} == {full_id}
        runs = [(each["container"]["started"], *each["container"]["cgroups"]) for each in events]
        assert len(set(runs)) == RESTARTS + 1
        assert_only_the_proxy_asked(origin, events)
        assert b"EICAR" not in docker.command("logs", full_id).out.encode()
