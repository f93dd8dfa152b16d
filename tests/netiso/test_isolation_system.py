"""Isolation of "containers" behind bridges: what is cut, what is not, and that it comes back."""

import select
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from netiso.apply import Kernel
from netiso.isolation import Isolation, sort_interfaces
from netiso.links import LinkWatch, read_links
from tests.netiso.yard import BRIEF, SPARE, Yard, publish, talk

pytestmark = pytest.mark.system

type Nft = Callable[[str], str]

FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])
# Of the connectivity matrix, the rows that bridges have: from, to, port.
CUT_ROWS = [
    pytest.param("a", "b", 7, id="same bridge"),
    pytest.param("a", "c", 7, id="cross bridge"),
    pytest.param("a", "gateway1", 9999, id="container to its gateway"),
    pytest.param("a", "host", 9999, id="container to the host's address"),
    pytest.param("a", "outside", 9999, id="container to the outside"),
    pytest.param("c", "host", 8081, id="container to a published port"),
    pytest.param("host", "a", 7, id="host to container"),
    pytest.param("host", "host", 8081, id="host to a published port"),
    pytest.param("outside", "a", 7, id="outside to container"),
    pytest.param("outside", "host", 8081, id="outside to a published port"),
]
WHOLE_ROWS = [
    pytest.param("host", "outside", 9999, id="host to the outside"),
    pytest.param("outside", "host", 9999, id="outside to the host"),
    pytest.param("host", "host", 9999, id="host to itself"),
]


@FAMILIES
@pytest.mark.parametrize(("source", "target", "port"), CUT_ROWS)
def test_a_containers_connection_works_is_cut_and_works_again(
    yard: Yard, kernel: Kernel, nft: Nft, family: str, source: str, target: str, port: int
) -> None:
    publish(yard, nft)
    address = yard.addresses[target, family]
    assert yard.reaches(source, address, family, port)

    yard.isolate(kernel)
    assert yard.is_cut(source, address, family, port)
    assert sum(kernel.cut_packets().values()) > 0
    assert kernel.differences() == ()

    kernel.lift()
    assert yard.reaches(source, address, family, port)
    assert kernel.differences() == ()


@FAMILIES
@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        pytest.param("host", "r", "cali0123", id="host to container"),
        pytest.param("r", "outside", "q9", id="container to the outside"),
        pytest.param("outside", "r", "q9", id="outside to container"),
    ],
)
def test_a_container_without_a_bridge_is_cut(
    yard: Yard, kernel: Kernel, family: str, source: str, target: str, port: str
) -> None:
    yard.container("r", "", port, 7)
    service = 9999 if target == "outside" else 7
    address = yard.addresses[target, family]
    assert yard.reaches(source, address, family, service)

    yard.isolate(kernel)
    assert yard.is_cut(source, address, family, service)

    kernel.lift()
    assert yard.reaches(source, address, family, service)


@FAMILIES
@pytest.mark.parametrize(("source", "target", "port"), WHOLE_ROWS)
def test_the_hosts_own_connections_are_not_cut(
    yard: Yard, kernel: Kernel, nft: Nft, family: str, source: str, target: str, port: int
) -> None:
    publish(yard, nft)
    yard.isolate(kernel)

    assert yard.reaches(source, yard.addresses[target, family], family, port)


@FAMILIES
@pytest.mark.parametrize("shown", ["0", "1"], ids=["br_netfilter off", "br_netfilter on"])
def test_a_bridge_is_cut_whether_or_not_the_hosts_rules_see_it(
    yard: Yard, kernel: Kernel, family: str, shown: str
) -> None:
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        path = Path(f"/proc/sys/net/bridge/{name}")
        if not path.exists():
            pytest.skip("this kernel has no br_netfilter")
        path.write_text(shown)
    assert yard.reaches("a", yard.addresses["b", family], family)

    yard.isolate(kernel)

    assert yard.is_cut("a", yard.addresses["b", family], family)
    assert kernel.cut_packets()["bridge_forward"] > 0


@FAMILIES
@pytest.mark.parametrize(
    ("source", "target", "port"), [("a", "b", 7), ("host", "a", 7), ("outside", "c", 7)]
)
def test_an_established_connection_pauses_and_goes_on(
    yard: Yard, kernel: Kernel, family: str, source: str, target: str, port: int
) -> None:
    flow = yard.flow(source, yard.addresses[target, family], family, port)

    yard.isolate(kernel)
    assert not talk(flow, BRIEF)
    kernel.lift()

    assert talk(flow)


def test_what_appears_during_isolation_is_cut_by_its_name_or_as_soon_as_it_is_heard_of(
    yard: Yard, kernel: Kernel
) -> None:
    watch = LinkWatch()
    yard.host.stack.callback(watch.close)
    yard.isolate(kernel)
    assert not watch.drain()

    yard.bridge("br-0a1b2c", 3)
    yard.container("d", "br-0a1b2c", "q1", 3)
    yard.bridge("lab", 4)
    yard.container("e", "lab", "q2", 4)

    assert yard.is_cut("host", yard.addresses["d", "v4"], "v4")
    assert yard.reaches("host", yard.addresses["e", "v4"], "v4")  # nothing in a name says so
    assert select.select([watch], [], [], 5)[0]
    assert watch.drain()
    kernel.follow_interfaces(sort_interfaces(read_links(), SPARE))
    assert yard.is_cut("host", yard.addresses["e", "v4"], "v4")
    assert kernel.differences() == ()


def test_virtual_machines_are_left_alone(yard: Yard, kernel: Kernel) -> None:
    yard.bridge("virbr0", 5)
    yard.container("vm1", "virbr0", "vnet0", 5)
    yard.container("vm2", "virbr0", "vnet1", 5)

    yard.isolate(kernel)

    assert yard.reaches("vm1", yard.addresses["vm2", "v4"], "v4")
    assert yard.reaches("vm1", yard.addresses["vm2", "v6"], "v6")
    assert yard.reaches("outside", yard.addresses["vm1", "v4"], "v4")
    assert yard.is_cut("vm1", yard.addresses["c", "v4"], "v4")
    assert any("vnet0" in each for each in kernel.gaps())  # its other end is a namespace


@FAMILIES
def test_a_container_on_the_uplinks_own_bridge_is_cut_and_the_uplink_is_not(
    yard: Yard, kernel: Kernel, family: str
) -> None:
    yard.bridge("lan", 6)
    yard.container("f", "lan", "q3", 6)
    yard.container("office-pc", "lan", "nic", 6)
    # The test host has no hardware, so one veth is passed for it.
    links = [replace(each, kind="") if each.name == "nic" else each for each in read_links()]
    container, outside = yard.addresses["f", family], yard.addresses["office-pc", family]
    assert yard.reaches("host", container, family)
    assert yard.reaches("office-pc", container, family)

    kernel.isolate(Isolation(spare=SPARE), sort_interfaces(links, SPARE))

    assert yard.is_cut("host", container, family)
    assert yard.is_cut("f", yard.addresses["gateway6", family], family)
    assert yard.is_cut("office-pc", container, family)
    assert yard.reaches("host", outside, family)
    assert {"bridge_forward", "bridge_output"} <= {
        place for place, count in kernel.cut_packets().items() if count
    }
