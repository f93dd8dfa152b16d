"""The text of isolation, and which interfaces it takes for the containers'."""

from dataclasses import replace

import pytest

from netiso.isolation import (
    CONTAINER_PATTERNS,
    VM_PATTERNS,
    Cut,
    HostNetwork,
    Interfaces,
    Isolation,
    Link,
    Reach,
    render_bridge,
    render_inet,
    sort_interfaces,
    standing,
)
from webguard.model import Network

BRIDGE = """\
add table bridge shop_iso_7 { flags owner; }
add set bridge shop_iso_7 on { type iface_type; }
add set bridge shop_iso_7 cut { type ifname; }
add set bridge shop_iso_7 spared { type ifname; }
add chain bridge shop_iso_7 dropped_forward
add chain bridge shop_iso_7 dropped_input
add chain bridge shop_iso_7 dropped_output
add chain bridge shop_iso_7 forward_from
add chain bridge shop_iso_7 forward_to
add chain bridge shop_iso_7 input_from
add chain bridge shop_iso_7 output_to
add chain bridge shop_iso_7 forward { type filter hook forward priority -300; policy accept; }
add chain bridge shop_iso_7 input { type filter hook input priority -300; policy accept; }
add chain bridge shop_iso_7 output { type filter hook output priority -300; policy accept; }
add rule bridge shop_iso_7 dropped_forward counter drop
add rule bridge shop_iso_7 dropped_input counter drop
add rule bridge shop_iso_7 dropped_output counter drop
add rule bridge shop_iso_7 forward_from iifname @spared jump forward_to
add rule bridge shop_iso_7 forward_from iifname "virbr*" jump forward_to
add rule bridge shop_iso_7 forward_from goto dropped_forward
add rule bridge shop_iso_7 forward_to oifname @spared accept
add rule bridge shop_iso_7 forward_to oifname "virbr*" accept
"""
BRIDGE_BASE = """\
add rule bridge shop_iso_7 forward meta iiftype @on jump forward_from
add rule bridge shop_iso_7 input meta iiftype @on jump input_from
add rule bridge shop_iso_7 output meta oiftype @on jump output_to
"""
INET_BASE = """\
add rule inet shop_iso_7 forward meta nfproto @on jump forward_from
add rule inet shop_iso_7 forward meta nfproto @on jump forward_to
add rule inet shop_iso_7 input meta nfproto @on jump input_from
add rule inet shop_iso_7 output meta nfproto @on jump output_to
"""
SPARING = Isolation(spare=("virbr*",))


def rules(text: str, chain: str) -> list[str]:
    lines = (line.split(" ", 5) for line in text.splitlines())
    return [line[5] for line in lines if line[:2] == ["add", "rule"] and line[4] == chain]


def test_the_bridge_table_is_this_text() -> None:
    text = render_bridge("shop_iso_7", SPARING)

    assert text.startswith(BRIDGE)
    assert text.endswith(BRIDGE_BASE)


def test_the_inet_table_asks_its_switch_first() -> None:
    text = render_inet("shop_iso_7", SPARING, 2)

    assert text.startswith("add table inet shop_iso_7 { flags owner; }\n")
    assert text.endswith(INET_BASE)
    assert "cgroup" not in text


@pytest.mark.parametrize(
    ("chain", "key", "where"),
    [
        ("forward_from", "iifname", "forward"),
        ("forward_to", "oifname", "forward"),
        ("input_from", "iifname", "input"),
        ("output_to", "oifname", "output"),
    ],
)
def test_facts_count_more_than_names_and_exceptions_more_than_patterns(
    chain: str, key: str, where: str
) -> None:
    assert rules(render_inet("t", SPARING, 2), chain) == [
        f"{key} @cut goto dropped_{where}",
        f"{key} @spared return",
        f'{key} "virbr*" return',
        *(f'{key} "{each}" goto dropped_{where}' for each in CONTAINER_PATTERNS),
    ]


def test_cutting_host_network_containers_matches_their_sockets_both_ways() -> None:
    text = render_inet("t", Isolation(host_network=HostNetwork.CUT), 2)

    for hook in ("input", "output"):
        assert rules(text, f"containers_{hook}") == [
            "socket cgroupv2 level 1 @cg1 goto dropped_containers",
            "socket cgroupv2 level 2 @cg2 goto dropped_containers",
        ]
        assert rules(text, hook)[-1] == f"meta nfproto @on jump containers_{hook}"


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("", id="nothing"),
        pytest.param("*", id="everything"),
        pytest.param("br*x", id="wildcard in the middle"),
        pytest.param('a" accept; "', id="nft commands"),
        pytest.param("a b", id="blank"),
        pytest.param("eth0\n", id="newline at the end"),
        pytest.param("a" * 16, id="longer than a name can be"),
        pytest.param("a" * 15 + "*", id="prefix as long as a name"),
    ],
)
def test_what_nft_must_not_see_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="not the name of an interface"):
        Isolation(spare=(pattern,))


DOCKER = Link(index=1, name="docker0", kind="bridge")
PORT = Link(index=2, name="vethaa", kind="veth", master=1)
NIC = Link(index=3, name="eth0", default_route=True)
ODD = Link(index=4, name="p1", kind="veth")
OTHER = Link(index=5, name="office", kind="bridge")
TAP = Link(index=6, name="tap3", kind="tun", master=5)
VIRBR = Link(index=7, name="virbr0", kind="bridge")


@pytest.mark.parametrize(
    ("links", "cut", "spared"),
    [
        pytest.param([DOCKER, PORT, NIC], {"docker0", "vethaa"}, {"eth0"}, id="Docker's"),
        pytest.param([ODD, OTHER], {"p1", "office"}, set(), id="by kind, whatever they are called"),
        pytest.param(
            [OTHER, replace(NIC, master=5, default_route=False), replace(PORT, master=5)],
            {"vethaa"},
            {"office", "eth0"},
            id="the uplink's bridge stays, the veth on it does not",
        ),
        pytest.param(
            [
                replace(OTHER, name="br-lan"),
                Link(index=9, name="bond0", kind="bond", master=5),
            ],
            set(),
            {"br-lan", "bond0"},
            id="an uplink's bridge that looks like Docker's",
        ),
        pytest.param([OTHER, TAP], set(), {"office", "tap3"}, id="virtual machines only"),
        pytest.param(
            [OTHER, TAP, replace(PORT, master=5)],
            {"office", "vethaa"},
            {"tap3"},
            id="virtual machines and a container",
        ),
        pytest.param(
            [VIRBR, replace(PORT, master=7)], set(), {"virbr0", "vethaa"}, id="spared by name"
        ),
        pytest.param(
            [replace(ODD, name="eth0", default_route=True)],
            set(),
            {"eth0"},
            id="the uplink of a host that is a container itself",
        ),
        pytest.param(
            [replace(DOCKER, default_route=True)],
            {"docker0"},
            set(),
            id="a default route over Docker's bridge saves it not",
        ),
        pytest.param(
            [Link(index=8, name="bond0", kind="bond"), replace(NIC, master=8)],
            set(),
            {"eth0"},
            id="a bond is no bridge",
        ),
    ],
)
def test_interfaces_are_the_containers_or_spared(
    links: list[Link], cut: set[str], spared: set[str]
) -> None:
    found = sort_interfaces(links)

    assert (set(found.cut), set(found.spared)) == (cut, spared)
    assert all(found.spared.values())
    reverse = sort_interfaces(links[::-1])
    assert (reverse.cut, reverse.spared) == (found.cut, found.spared)


def test_a_veth_on_a_spared_bridge_is_said_to_leak() -> None:
    found = sort_interfaces([VIRBR, replace(PORT, master=7), replace(TAP, master=7)])

    assert found.leaks == ("vethaa, which may be a container's, on virbr0",)


FOUND = Interfaces(cut=frozenset({"p1"}), spared={"p2": "named by isolation.spare"})


@pytest.mark.parametrize(
    ("reach", "cut", "why"),
    [
        pytest.param(Reach(here=("p1",)), Cut.YES, "cut at p1", id="by fact"),
        pytest.param(Reach(here=("vethx",)), Cut.YES, "cut at vethx", id="by pattern"),
        pytest.param(Reach(), Cut.YES, "no network", id="network none"),
        pytest.param(Reach(here=("p2",)), Cut.NO, "p2 is not cut", id="spared"),
        pytest.param(Reach(here=("other",)), Cut.NO, "other is not cut", id="not known at all"),
        pytest.param(Reach(elsewhere=("eth0",)), Cut.NO, "past the host's", id="macvlan"),
        pytest.param(
            Reach(here=("p1",), elsewhere=("eth0",)), Cut.PARTLY, "1 of its", id="overlay"
        ),
        pytest.param(None, Cut.UNKNOWN, "could not be looked at", id="its process is gone"),
    ],
)
def test_a_containers_standing_follows_from_its_interfaces(
    reach: Reach | None, cut: Cut, why: str
) -> None:
    found = standing(Network.PRIVATE, reach, FOUND, Isolation())

    assert found.cut is cut
    assert why in found.why


@pytest.mark.parametrize(
    ("host_network", "cut", "why"),
    [
        (HostNetwork.LEAVE, Cut.NO, "not inspected"),
        (HostNetwork.CUT, Cut.YES, "loopback included"),
        (HostNetwork.INSPECT, Cut.NO, "stays inspected"),
    ],
)
def test_a_host_network_containers_standing_follows_from_the_setting(
    host_network: HostNetwork, cut: Cut, why: str
) -> None:
    found = standing(Network.HOST, None, FOUND, Isolation(host_network=host_network))

    assert found.cut is cut
    assert why in found.why


def test_virtual_machines_are_spared_unless_said_otherwise() -> None:
    assert Isolation().spare == VM_PATTERNS
