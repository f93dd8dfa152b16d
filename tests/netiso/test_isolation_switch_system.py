"""Isolation and interception together: one switch, one owner, and what is left when it fails."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from netiso import isolation_tables
from netiso.apply import Kernel, next_generation
from netiso.isolation import HostNetwork, Interfaces, Isolation
from netiso.kernel_state import TableWatch, read_tables
from netiso.netlink import BRIDGE, Kind, attributes, heard, string, subscribe
from tests.netiso.yard import SPARE, Yard, end, interfaces
from webguard.errors import HostError

if TYPE_CHECKING:
    from tests.netiso.conftest import Host

pytestmark = pytest.mark.system

type Nft = Callable[[str], str]

FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])
LOOPBACK = {"v4": "127.0.0.1", "v6": "::1"}
_REPOSITORY = str(Path(__file__).parents[2])
_NEW_GENERATION = 15  # NFT_MSG_NEWGEN: ends what one transaction tells

# A daemon reduced to its isolation; waits to be killed.
_OWNER = """
import sys
sys.path.insert(0, sys.argv[1])
from netiso.apply import Kernel
from netiso.isolation import Isolation, sort_interfaces
from netiso.links import read_links
from netiso.redirect import Redirect
kernel = Kernel(Redirect(instance=sys.argv[2], generation=1, proxy_port=13128, ports=(80,)))
kernel.load()
kernel.redirect_containers()
spare = tuple(sys.argv[3:])
kernel.isolate(Isolation(spare=spare), sort_interfaces(read_links(), spare))
print("isolated", flush=True)
sys.stdin.read()
"""

# A service of a host-network container: says what it hears first.
_LISTENER = """
import os, socket, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
print(sock.recv(10).decode(), flush=True)
"""


def isolation(host_network: HostNetwork = HostNetwork.LEAVE) -> Isolation:
    return Isolation(host_network=host_network, spare=SPARE)


def tables() -> set[tuple[str, int]]:
    found = (*read_tables(), *read_tables(BRIDGE))
    return {(table.name, table.family) for table in found}


@FAMILIES
def test_leave_ends_interception_with_isolation_and_resumes_it_after(
    host: "Host", kernel: Kernel, family: str
) -> None:
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    assert host.ask(container, host.origin[family], 80) == "proxy"

    kernel.isolate(isolation(), interfaces())
    assert host.ask(container, host.origin[family], 80) == "origin"
    assert kernel.differences() == ()
    assert kernel.isolation == isolation()

    kernel.lift()
    assert host.ask(container, host.origin[family], 80) == "proxy"
    assert kernel.intercepting
    assert kernel.differences() == ()
    assert kernel.cut_packets() == {}


@FAMILIES
def test_inspect_leaves_interception_on(host: "Host", kernel: Kernel, family: str) -> None:
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])

    kernel.isolate(isolation(HostNetwork.INSPECT), interfaces())

    assert kernel.intercepting
    assert host.ask(container, host.origin[family], 80) == "proxy"
    assert host.ask(container, host.origin[family], 9999) == "origin"


@FAMILIES
def test_cut_takes_a_host_network_containers_network_and_nobody_elses(
    host: "Host", kernel: Kernel, family: str
) -> None:
    container, neighbour, late = host.cgroup("one"), host.cgroup("one"), host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    host.proxy.start(8080)  # a service of the host, for which loopback is a way

    kernel.isolate(isolation(HostNetwork.CUT), interfaces())
    kernel.add_cgroups([host.entry(late)])

    for cut in (container, late):
        for address in (host.origin[family], LOOPBACK[family]):
            assert host.ask(cut, address, 53, "SOCK_DGRAM") == "EPERM"
    # The kernel sends a TCP connection's first packet again and again, and says nothing.
    assert host.ask(container, LOOPBACK[family], 8080) == "TimeoutError"
    assert kernel.cut_packets()["containers"] > 0
    assert host.ask(neighbour, host.origin[family], 80) == "origin"
    assert host.ask(None, LOOPBACK[family], 8080) == "proxy"
    assert kernel.differences() == ()

    kernel.remove_cgroups([host.entry(late)])
    assert host.ask(late, host.origin[family], 80) == "origin"
    kernel.lift()
    assert host.ask(container, host.origin[family], 80) == "proxy"


def test_cut_keeps_from_a_container_what_is_sent_to_it(host: "Host", kernel: Kernel) -> None:
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    server = subprocess.Popen(
        [sys.executable, "-I", "-c", _LISTENER, str(container / "cgroup.procs")],
        stdout=subprocess.PIPE,
        text=True,
    )
    host.stack.callback(end, server)
    assert server.stdout
    port = int(server.stdout.readline())

    kernel.isolate(isolation(HostNetwork.CUT), interfaces())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"cut", ("127.0.0.1", port))
        kernel.lift()
        client.sendto(b"lifted", ("127.0.0.1", port))

    assert server.stdout.readline() == "lifted\n"


@pytest.mark.parametrize("host_network", list(HostNetwork))
def test_the_selftest_is_seen_whatever_isolation_does(
    host: "Host", host_network: HostNetwork
) -> None:
    probe = host.cgroup()
    kernel = host.kernel(closed=True)
    kernel.load()
    kernel.begin_selftest(host.entry(probe)[1])
    kernel.redirect_containers()
    assert host.ask(probe, host.origin["v4"], 80) == "proxy"

    kernel.isolate(isolation(host_network), interfaces())
    assert host.ask(probe, host.origin["v4"], 80) == "proxy"
    kernel.lift()

    assert host.ask(probe, host.origin["v4"], 80) == "proxy"
    assert kernel.packets()["redirected"] >= 2
    assert kernel.differences() == ()


@FAMILIES
def test_left_alone_means_that_no_port_is_shut(host: "Host", family: str) -> None:
    container, late = host.cgroup("one"), host.cgroup("one")
    kernel = host.kernel(closed=True)
    kernel.load()
    kernel.add_cgroups([host.entry(container)])
    assert host.ask(container, host.origin[family], 80) == "ECONNREFUSED"

    kernel.isolate(isolation(), interfaces())
    kernel.add_cgroups([host.entry(late)])
    assert host.ask(container, host.origin[family], 80) == "origin"
    assert host.ask(late, host.origin[family], 80) == "origin"

    kernel.lift()
    assert host.ask(container, host.origin[family], 80) == "ECONNREFUSED"
    assert host.ask(late, host.origin[family], 80) == "ECONNREFUSED"
    assert kernel.differences() == ()


def test_switching_interception_on_during_isolation_takes_effect_when_that_is_lifted(
    host: "Host", kernel: Kernel
) -> None:
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    kernel.withdraw_containers()
    kernel.isolate(isolation(), interfaces())

    kernel.redirect_containers()

    assert not kernel.intercepting
    kernel.lift()
    assert host.ask(container, host.origin["v4"], 80) == "proxy"


def test_lifting_does_not_switch_on_what_was_off(host: "Host", kernel: Kernel) -> None:
    kernel.isolate(isolation(), interfaces())
    kernel.withdraw_containers()

    kernel.lift()

    assert not kernel.intercepting


def transactions(commits: "Callable[[], None]") -> list[set[tuple[int, str]]]:
    """Run something, and return what each transaction did: kind, and set or table."""
    with subscribe() as sock:
        commits()
        told: list[set[tuple[int, str]]] = [set()]
        try:
            while True:
                for kind, _sender, body in heard(sock):
                    if kind == _NEW_GENERATION:
                        told.append(set())
                        continue
                    names = dict(attributes(body))
                    named = kind in (Kind.NEW_ELEMENTS, Kind.DELETE_ELEMENTS)
                    told[-1].add((kind, string(names.get(2 if named else 1, b""))))
        except BlockingIOError:
            return told


def test_isolation_begins_and_interception_ends_in_one_transaction(
    host: "Host", kernel: Kernel
) -> None:
    on = transactions(lambda: kernel.isolate(isolation(), interfaces()))
    off = transactions(kernel.lift)

    (switched,) = (each for each in on if (Kind.NEW_ELEMENTS, "on") in each)
    assert (Kind.DELETE_ELEMENTS, "live") in switched
    (switched,) = (each for each in off if (Kind.NEW_ELEMENTS, "live") in each)
    assert (Kind.DELETE_TABLE, f"{host.instance}_iso_2") in switched


@pytest.mark.parametrize("before", [None, HostNetwork.INSPECT], ids=["off", "on"])
def test_a_transaction_that_fails_leaves_everything_as_it_was(
    yard: Yard, kernel: Kernel, before: HostNetwork | None
) -> None:
    host = yard.host
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    if before:
        kernel.isolate(isolation(before), interfaces())
    there = tables()
    invalid = Interfaces(cut=frozenset({"longer-than-any-interface"}), spared={})

    with pytest.raises(HostError, match="isolate the containers"):
        kernel.isolate(isolation(HostNetwork.CUT), invalid)

    assert tables() == there
    assert kernel.isolation == (isolation(before) if before else None)
    assert kernel.differences() == ()
    assert host.ask(container, host.origin["v4"], 80) == "proxy"
    assert yard.is_cut("host", yard.addresses["a", "v4"], "v4") is (before is not None)


def test_a_table_in_the_way_fails_it_and_is_not_touched(
    host: "Host", kernel: Kernel, nft: Nft
) -> None:
    assert not nft(f"add table bridge {host.instance}_iso_2 {{ flags owner; }}")
    there = tables()

    with pytest.raises(HostError):
        kernel.isolate(isolation(), interfaces())

    assert tables() == there
    assert kernel.intercepting


def test_one_isolation_replaces_another_without_a_gap(host: "Host", kernel: Kernel) -> None:
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    kernel.isolate(isolation(), interfaces())
    assert host.ask(container, host.origin["v4"], 80) == "origin"

    told = transactions(lambda: kernel.isolate(isolation(HostNetwork.CUT), interfaces()))

    (switched,) = (each for each in told if (Kind.NEW_ELEMENTS, "on") in each)
    assert (Kind.DELETE_TABLE, f"{host.instance}_iso_2") in switched
    assert host.ask(container, host.origin["v4"], 53, "SOCK_DGRAM") == "EPERM"
    kernel.isolate(isolation(HostNetwork.INSPECT), interfaces())
    assert host.ask(container, host.origin["v4"], 80) == "proxy"
    assert len(tables()) == 3
    assert kernel.differences() == ()


def test_isolating_before_loading_is_no_silence(host: "Host") -> None:
    with pytest.raises(RuntimeError, match="before the tables were loaded"):
        host.kernel().isolate(isolation(), interfaces())


@FAMILIES
def test_a_killed_daemon_takes_the_isolation_with_it(yard: Yard, family: str) -> None:
    """The first form: it ends with the daemon, and the status says so."""
    owner = subprocess.Popen(
        [sys.executable, "-I", "-c", _OWNER, _REPOSITORY, yard.host.instance, *SPARE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        try:
            assert owner.stdout
            assert owner.stdout.readline() == "isolated\n"
            assert yard.is_cut("a", yard.addresses["b", family], family)
        finally:
            owner.kill()

    assert tables() == set()
    assert yard.reaches("a", yard.addresses["b", family], family)


def test_an_orderly_end_takes_the_isolation_with_it(host: "Host", kernel: Kernel) -> None:
    kernel.isolate(isolation(), interfaces())

    kernel.close()

    assert tables() == set()


def test_nobody_else_can_lift_it(host: "Host", kernel: Kernel, nft: Nft) -> None:
    kernel.isolate(isolation(), interfaces())

    for family in ("inet", "bridge"):
        table = f"{family} {host.instance}_iso_2"
        assert "Operation not permitted" in nft(f"delete table {table}")
        assert "Operation not permitted" in nft(f"flush set {table} on")
    nft("flush ruleset")
    assert kernel.differences() == ()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param("flush set bridge {iso} on", "set on of {iso} (family bridge)", id="bridge"),
        pytest.param("flush set inet {iso} on", "set on of {iso} lacks 2", id="inet"),
        pytest.param(
            "insert rule inet {iso} forward accept", "chain forward of {iso} has 3", id="a rule"
        ),
        pytest.param("delete table bridge {iso}", "{iso} (family bridge) is gone", id="gone"),
    ],
)
def test_an_isolation_that_is_no_longer_as_loaded_is_noticed(
    host: "Host", kernel: Kernel, damage: str, said: str
) -> None:
    kernel.isolate(isolation(), interfaces())
    watch = TableWatch(host.instance)
    host.stack.callback(watch.close)
    name = f"{host.instance}_iso_2"

    kernel.apply(damage.format(iso=name))

    assert said.format(iso=name) in "; ".join(kernel.differences())
    assert watch.drain()


def test_a_kernel_without_nftables_for_bridges_is_a_gap_that_is_said(
    yard: Yard, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = "add table bridge {table}\nadd rule bridge {table} none drop"  # refused
    monkeypatch.setattr(isolation_tables, "_BRIDGE_FEATURE", feature)

    kernel.isolate(isolation(), interfaces())

    assert any("CONFIG_NF_TABLES_BRIDGE" in each for each in kernel.gaps())
    assert read_tables(BRIDGE) == ()
    assert yard.is_cut("host", yard.addresses["a", "v4"], "v4")
    assert kernel.differences() == ()
    kernel.lift()
    assert kernel.gaps() == ()


@pytest.mark.parametrize("family", ["inet", "bridge"])
def test_a_table_of_our_name_that_somebody_else_made_does_not_stay(
    host: "Host", nft: Nft, family: str
) -> None:
    assert not nft(f"add table {family} {host.instance}_iso_4")
    assert next_generation(host.instance) == 5
    kernel = host.kernel(generation=5)

    kernel.adopt()

    assert tables() == set()
