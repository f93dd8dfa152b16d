"""Isolation by the command line, on real containers: what is cut, what is not, and what is said."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.bridges import BRIDGED, ECHO, Yard, containers_and_bridges, inspected
from tests.system.containers import blocked, serve_eicar
from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, ORIGIN_V4, Origin
from tests.system.host.testhost import TestHost
from tests.system.product import Event, Webguard, running, wait_until
from webguard.cli.ask import ask
from webguard.errors import RefusedError

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def yard(docker: Docker) -> Iterator[Yard]:
    with containers_and_bridges(docker) as yard:
        yield yard


@pytest.fixture(scope="module")
def webguard(
    host: TestHost, docker: Docker, webguard_installed: Path, yard: Yard
) -> Iterator[Webguard]:
    with running(host, webguard_installed, [docker.cgroup_parent.strip("/")]) as daemon:
        yield daemon


@pytest.fixture
def free(webguard: Webguard, origin: Origin) -> Iterator[Webguard]:
    """The daemon with isolation off, before and after."""
    origin.serve("/hello", b"hello")
    wait_until(lambda: webguard.status()["protected"])
    yield webguard
    do(webguard, "/off")


def do(webguard: Webguard, deed: str = "", **said: str) -> dict[str, Any]:
    """What `webguard isolation ... --json` prints, without the second that a program needs."""
    control = webguard.host.path("/run/webguard/control.sock")
    return ask(control, f"/v1/isolation{deed}", said if deed else None)


def choose(webguard: Webguard, host_network: str) -> None:
    """Put `isolation.host_network` in force, as an operator would."""
    path = webguard.host.path("/etc/webguard/webguard.yaml")
    settings = yaml.safe_load(path.read_text())
    settings["isolation"] = {"host_network": host_network}
    path.write_text(yaml.safe_dump(settings))
    ask(webguard.host.path("/run/webguard/control.sock"), "/v1/policy/reload", {"config": ""})


def cut(answer: dict[str, Any], yard: Yard) -> dict[str, tuple[str, str]]:
    """How our containers stand; the machine may have others."""
    names = {full_id: name for name, full_id in yard.ids.items()}
    ours = [each for each in answer["containers"] if each["id"] in names]
    return {names[each["id"]]: (each["cut"], each["why"]) for each in ours}


def isolation_events(webguard: Webguard) -> list[Event]:
    """The last two of the record, as an operator reads it."""
    told = webguard.command("events", "--kind", "isolation", "-n", "2").out.splitlines()
    return [json.loads(line) for line in told]


def get(yard: Yard, url: str) -> str:
    """What a program in the host-network container gets from the origin."""
    done = yard.docker.command("exec", "shop", "wget", "-qO-", url, check=False)
    return done.out if done.code == 0 else done.err


def test_containers_are_cut_off_and_come_back(free: Webguard, yard: Yard) -> None:
    yard.wait_for(*yard.rows())
    on = free.command("isolation", "on", "--reason", "incident 4711")
    during, status = yard.reached(), do(free)
    said = free.command("isolation", "status")
    off = free.command("isolation", "off")

    assert during == {"the host's network to the outside"}
    yard.wait_for(*yard.rows())
    assert (on.code, said.code, off.code) == (0, 0, 0)
    assert "isolation is ON, by root: incident 4711\n" in on.out
    assert off.out == "isolation is off\n"
    assert (status["isolated"], status["degraded"]) == (True, [])
    found = cut(status, yard)
    assert {name: found[name][0] for name in BRIDGED} == dict.fromkeys(BRIDGED, "cut")
    assert "cut at veth" in found["one"][1]
    dropped = status["packets"]
    assert all(dropped[each] > 0 for each in ("output", "bridge_input", "bridge_forward")), dropped
    assert "host-network containers: leave" in said.out
    assert f"{yard.ids['one'][:12]}\tone\tprivate\tcut\t" in said.out


def test_an_open_connection_is_cut_and_goes_on_when_it_is_lifted(
    free: Webguard, yard: Yard
) -> None:
    heard = "/tmp/heard"
    script = f"while sleep 0.1; do echo tick; done | nc {yard.v4['two']} 7 > {heard}"
    yard.docker.command("exec", "--detach", "one", "sh", "-c", script)

    def size() -> int:
        said = yard.docker.command("exec", "one", "sh", "-c", f"wc -c < {heard}", check=False)
        return int(said.out or 0)

    wait_until(lambda: size() > 0)
    do(free, "/on")
    # What had arrived is written by the time that another connection has failed.
    assert not yard.reaches("one", yard.v4["two"])
    before = size()
    assert not yard.reaches("one", yard.v4["two"])
    assert size() == before

    do(free, "/off")
    wait_until(lambda: size() > before)


@contextmanager
def unseen_by_the_hosts_rules(host: TestHost) -> Iterator[None]:
    """A bridge's own traffic kept from them, as where br_netfilter is off."""
    keys = [f"net.bridge.bridge-nf-call-{each}tables" for each in ("ip", "ip6")]
    host.run(["sysctl", "-qw", *(f"{key}=0" for key in keys)])
    try:
        yield
    finally:
        host.run(["sysctl", "-qw", *(f"{key}=1" for key in keys)])


def test_a_bridge_is_cut_where_the_hosts_rules_do_not_see_it(
    free: Webguard, host: TestHost, yard: Yard
) -> None:
    rows = [("one", yard.v4["two"]), ("three", yard.v4["four"]), ("three", yard.v6["four"])]
    with unseen_by_the_hosts_rules(host):
        wait_until(lambda: all(yard.reaches(*row) for row in rows))
        do(free, "/on")
        assert [yard.reaches(*row) for row in rows] == [False] * 3


def names_that_are_cut(host: TestHost) -> str:
    tables = host.run(["nft", "list", "tables", "inet"]).out.split()
    (table,) = (each for each in tables if each.startswith("webguard_iso_"))
    return host.run(["nft", "list", "set", "inet", table, "cut"]).out


def test_what_comes_while_it_is_on_is_cut_too(free: Webguard, host: TestHost, yard: Yard) -> None:
    docker, idle = yard.docker, ("sleep", "600")
    # No pattern of names covers this one.
    named_by_its_user = ("--opt", "com.docker.network.bridge.name=lan7")
    do(free, "/on")
    with ExitStack() as stack:
        docker.command("network", "create", *named_by_its_user, "late")
        stack.callback(docker.command, "network", "rm", "late")
        for name, network, argv in (
            ("five", "late", ECHO),
            ("six", "late", idle),
            ("seven", "bridge", idle),
        ):
            named = ("--name", name)
            stack.enter_context(
                docker.container(docker.busybox, *argv, network=network, options=named)
            )
        wait_until(lambda: "lan7" in names_that_are_cut(host))
        five = inspected(docker, "five", "IPAddress")
        assert not yard.reaches("six", five)
        assert not yard.reaches("seven", yard.v4["one"])
        do(free, "/off")
        wait_until(lambda: yard.reaches("six", five))
        wait_until(lambda: yard.reaches("seven", yard.v4["one"]))


@pytest.mark.parametrize(
    ("host_network", "standing", "inspecting"),
    [
        pytest.param("leave", "is left alone and is not inspected", False, id="leave"),
        pytest.param("cut", "is cut by its cgroup", False, id="cut"),
        pytest.param("inspect", "stays inspected", True, id="inspect"),
    ],
)
def test_what_becomes_of_host_network_containers_is_a_setting(
    free: Webguard, yard: Yard, origin: Origin, host_network: str, standing: str, inspecting: bool
) -> None:
    url = serve_eicar(origin)
    choose(free, host_network)

    answer = json.loads(free.command("isolation", "on", "--json").out)

    assert (answer["host_network"], answer["inspecting"]) == (host_network, inspecting)
    assert cut(answer, yard)["shop"][0] == ("cut" if host_network == "cut" else "open")
    assert standing in cut(answer, yard)["shop"][1]
    if host_network == "leave":
        assert get(yard, f"{url}?leave").encode() == EICAR
    elif host_network == "cut":
        assert not yard.reaches("shop", ORIGIN_V4, 80)
        assert not yard.reaches("shop", "127.0.0.1", 80)
        wait_until(lambda: do(free)["packets"]["containers"] > 0)
        assert origin.connections() == []
    else:
        assert "403" in get(yard, f"{url}?inspect")
        assert blocked(free, "?inspect")[0]["container"]["id"] == yard.ids["shop"]
    status = free.command("status", check=False)
    assert status.out.startswith("PROTECTED: " if inspecting else "NOT PROTECTED\n")
    assert ("isolation is on" in status.out) is not inspecting
    assert "  isolation is ON, by root" in status.out
    told = free.status()["isolation"]
    assert told == {key: answer[key] for key in told}

    do(free, "/off")
    assert "403" in get(yard, f"{url}?after-{host_network}")
    found = blocked(free, f"?after-{host_network}")
    assert [each["container"]["id"] for each in found] == [yard.ids["shop"]]
    assert not [each for each in free.events(kind="web.blocked") if "?leave" in each["subject"]]


def test_a_connection_that_was_redirected_ends_with_inspection(
    free: Webguard, yard: Yard, origin: Origin
) -> None:
    choose(free, "leave")
    script = f"sleep 600 | (nc {ORIGIN_V4} 80; touch /tmp/ended)"
    yard.docker.command("exec", "--detach", "shop", "sh", "-c", script)
    wait_until(lambda: origin.connections() != [])
    assert do(free)["isolated"] is False

    do(free, "/on")

    ended = ("exec", "shop", "test", "-e", "/tmp/ended")
    wait_until(lambda: yard.docker.command(*ended, check=False).code == 0)


def test_on_and_off_may_be_said_twice(free: Webguard, host: TestHost, yard: Yard) -> None:
    for reason in ("first", "second"):
        done = free.command("isolation", "on", "--reason", reason, "--json")
        answer = json.loads(done.out)
        assert (answer["isolated"], answer["reason"], answer["who"]) == (True, reason, "root")
    tables = host.run(["nft", "list", "tables"]).out.split("\n")
    assert len([each for each in tables if "webguard_iso_" in each]) == 2
    for _ in range(2):
        assert json.loads(free.command("isolation", "off", "--json").out)["isolated"] is False
    assert "webguard_iso_" not in host.run(["nft", "list", "tables"]).out
    wait_until(lambda: yard.reaches("one", yard.v4["two"]))


def test_who_and_why_is_in_the_record(free: Webguard) -> None:
    choose(free, "leave")
    do(free, "/on", reason="in, case of = doubt")
    free.command("isolation", "off", "--reason", "no more doubt")
    do(free, "/off")

    on, off = isolation_events(free)

    assert (on["kind"], on["subject"], on["severity"]) == ("isolation.on", "root", "medium")
    assert on["outcome"] == "host-network containers: leave; in, case of = doubt"
    assert (off["kind"], off["subject"]) == ("isolation.off", "root")
    assert off["outcome"] == "no more doubt"


def test_protection_is_measured_anew_after_it(free: Webguard, host: TestHost) -> None:
    """A probe that took the self-test's own rule says nothing of the containers'."""
    choose(free, "leave")
    do(free, "/on")
    wait_until(lambda: "isolation is on" in str(free.status()["missing"]))
    rule = "tcp dport 13128 drop"  # no probe arrives any more
    foe = f"table inet foe {{ chain in {{ type filter hook input priority -10; {rule}; }}; }}"
    host.run(["nft", "-f", "-"], stdin=foe.encode())
    try:
        do(free, "/off")
        status = ask(free.host.path("/run/webguard/control.sock"), "/v1/status")
    finally:
        host.run(["nft", "delete", "table", "inet", "foe"])
    assert "the self-test over IPv4 was not seen by a worker" in status["missing"]


def test_hung_workers_do_not_hold_it_up(free: Webguard, yard: Yard) -> None:
    choose(free, "inspect")
    workers = free.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        # The time limit is far below the ten minutes that a command has patience for.
        on = free.command("isolation", "on", "--json", timeout=15)
        assert not yard.reaches("one", yard.v4["two"])
        off = free.command("isolation", "off", "--json", timeout=15)
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):  # ended for hanging, as it should
                os.kill(pid, signal.SIGCONT)
    assert [json.loads(each.out)["isolated"] for each in (on, off)] == [True, False]
    wait_until(lambda: yard.reaches("one", yard.v4["two"]))


def test_without_a_daemon_there_is_no_isolation_and_the_exit_code_says_so(
    host: TestHost, webguard_installed: Path
) -> None:
    for words in (("on", "--reason", "x"), ("status", "--json")):
        argv = [webguard_installed, "--instance", "nobody", "isolation", *words]
        done = host.run(argv, check=False)
        assert (done.code, done.out) == (5, "")
        assert "(start it: webguard run)" in done.err


def test_isolation_and_a_take_over_exclude_each_other(free: Webguard) -> None:
    do(free, "/on")
    refused = free.command("run", "--take-over", check=False)
    assert (refused.code, "(webguard isolation off first)" in refused.err) == (1, True)
    assert do(free)["isolated"] is True
    do(free, "/off")

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as successor:
        successor.connect(str(free.host.path("/run/webguard/handover.sock")))
        _, given, _, _ = socket.recv_fds(successor, 65536, 16)
        for each in given:
            os.close(each)
        done = free.command("isolation", "on", check=False)
        assert (done.code, done.out) == (1, "")
        assert "another webguard is about to take over (wait for it, then" in done.err
        assert do(free)["isolated"] is False

    def accepted() -> bool:
        with contextlib.suppress(RefusedError):
            return bool(do(free, "/on")["isolated"])
        return False

    wait_until(accepted)


def test_it_ends_with_the_daemon_and_says_so_before(webguard: Webguard, yard: Yard) -> None:
    """The last of this daemon."""
    done = webguard.command("isolation", "on")
    assert "ends with the daemon, or by `webguard isolation off`" in done.out
    assert not yard.reaches("one", yard.v4["two"])

    webguard.process.kill()
    webguard.process.wait(10)

    wait_until(lambda: yard.reaches("one", yard.v4["two"]))
    assert "webguard_iso_" not in webguard.host.run(["nft", "list", "tables"]).out
