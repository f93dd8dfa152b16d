"""What happens to real connections from real cgroups."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.netiso.conftest import Host

pytestmark = pytest.mark.system

FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])
type Nft = Callable[[str], str]


@FAMILIES
@pytest.mark.parametrize(
    ("matched", "below"),
    [
        pytest.param(1, 0, id="container at level 1"),
        pytest.param(3, 0, id="container at level 3"),
        pytest.param(2, 2, id="cgroup two below the container's"),
    ],
)
def test_a_containers_connection_reaches_the_proxy_which_learns_its_destination(
    host: "Host", family: str, matched: int, below: int
) -> None:
    kernel = host.kernel()
    kernel.load()
    inside = host.cgroup(*"abcd"[: matched + below - 1])
    container = inside
    for _ in range(below):
        container = container.parent
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()

    assert host.ask(inside, host.origin[family], 443) == "proxy"
    assert host.proxy.asked == [(host.origin[family], 443)]
    assert kernel.packets()["redirected"] == 1


@FAMILIES
def test_all_others_are_untouched(host: "Host", family: str) -> None:
    kernel = host.kernel()
    kernel.load()
    container, neighbour = host.cgroup("one"), host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()

    assert host.ask(None, host.origin[family], 80) == "origin"
    assert host.ask(neighbour, host.origin[family], 80) == "origin"
    assert host.ask(container.parent, host.origin[family], 80) == "origin"
    assert host.ask(container, host.origin[family], 9999) == "origin"
    assert kernel.packets()["redirected"] == 0
    assert host.proxy.asked == []


@FAMILIES
def test_loopback_is_untouched_and_the_hosts_other_addresses_are_not(
    host: "Host", family: str
) -> None:
    host.proxy.start(8080)  # some service of the host
    kernel = host.kernel(ports=(80, 443, 8080), closed=True)
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()
    loopback = {"v4": "127.0.0.1", "v6": "::1"}[family]

    assert host.ask(container, loopback, 8080) == "proxy"
    assert kernel.packets()["redirected"] == 0
    assert host.ask(container, host.own[family], 8080) == "proxy"
    assert kernel.packets()["redirected"] == 1


@FAMILIES
def test_the_proxys_port_refuses_whoever_was_not_redirected(host: "Host", family: str) -> None:
    kernel = host.kernel()
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()
    loopback = {"v4": "127.0.0.1", "v6": "::1"}[family]

    assert host.ask(container, loopback, host.proxy_port) == "ECONNREFUSED"
    assert host.ask(None, loopback, host.proxy_port) == "ECONNREFUSED"
    assert kernel.packets()["guard"] == 2
    assert host.ask(container, host.origin[family], 80) == "proxy"


@FAMILIES
def test_quic_is_refused_at_once_and_other_udp_is_not(host: "Host", family: str) -> None:
    kernel = host.kernel()
    kernel.load()
    container = host.cgroup("deep")
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()

    refused = host.ask(container, host.origin[family], 443, "SOCK_DGRAM")
    assert refused in ("EPERM", "ECONNREFUSED")
    assert host.ask(container, host.origin[family], 53, "SOCK_DGRAM") == "origin"
    assert host.ask(None, host.origin[family], 443, "SOCK_DGRAM") == "origin"


@FAMILIES
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_packets_marked_notrack_do_not_get_past_the_redirect(
    host: "Host", nft: Nft, family: str, closed: bool
) -> None:
    """A container with CAP_NET_ADMIN cannot touch our table, but it can make its own."""
    kernel = host.kernel(closed=closed)
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()
    assert not nft(
        "add table inet evil\n"
        "add chain inet evil o { type filter hook output priority -300; }\n"
        "add rule inet evil o tcp dport 80 notrack"
    )

    assert host.ask(container, host.origin[family], 80) == "ECONNREFUSED"
    assert host.ask(None, host.origin[family], 80) == "origin"


def test_docker_mapping_of_a_published_port_does_not_come_first(host: "Host", nft: Nft) -> None:
    kernel = host.kernel()
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()
    assert not nft(
        "add table ip nat\n"
        "add chain ip nat o { type nat hook output priority -100; }\n"
        f"add rule ip nat o tcp dport 80 dnat to {host.origin['v4']}:9999"
    )

    assert host.ask(container, host.own["v4"], 80) == "proxy"


@FAMILIES
def test_the_redirect_is_switched_on_and_off_without_touching_the_sets(
    host: "Host", family: str
) -> None:
    kernel = host.kernel()
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])

    assert host.ask(container, host.origin[family], 80) == "origin"
    kernel.redirect_containers()
    assert host.ask(container, host.origin[family], 80) == "proxy"
    kernel.withdraw_containers()
    assert host.ask(container, host.origin[family], 80) == "origin"
    kernel.redirect_containers()
    assert host.ask(container, host.origin[family], 80) == "proxy"
    assert kernel.differences() == ()


def test_the_selftest_has_its_own_rule_first_and_the_containers_rule_then(host: "Host") -> None:
    kernel = host.kernel()
    kernel.load()
    probe, container = host.cgroup(), host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.begin_selftest(probe.stat().st_ino)

    assert host.ask(probe, host.origin["v4"], 80) == "proxy"
    assert host.ask(container, host.origin["v4"], 80) == "origin"
    kernel.redirect_containers()
    assert host.ask(probe, host.origin["v4"], 80) == "proxy"
    assert (kernel.packets()["probe"], kernel.packets()["redirected"]) == (1, 1)
    # Without the containers' rule no other takes the probe: it must not lie.
    kernel.apply(f"flush chain inet {kernel.redirect.web_table} containers")
    assert host.ask(probe, host.origin["v4"], 80) == "origin"


@FAMILIES
def test_closed_shuts_the_ports_until_inspection_stands(host: "Host", family: str) -> None:
    kernel = host.kernel(closed=True)
    kernel.load()
    container = host.cgroup("deep")
    kernel.add_cgroups([host.entry(container)])

    assert host.ask(container, host.origin[family], 80) == "ECONNREFUSED"
    assert host.ask(container, host.origin[family], 443, "SOCK_DGRAM") in ("EPERM", "ECONNREFUSED")
    assert kernel.packets()["closed"] == 2
    assert host.ask(container, host.origin[family], 9999) == "origin"
    assert host.ask(container, host.origin[family], 53, "SOCK_DGRAM") == "origin"
    assert host.ask(None, host.origin[family], 80) == "origin"
    kernel.redirect_containers()
    assert host.ask(container, host.origin[family], 80) == "proxy"


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("server_port", "client_port"),
    [
        pytest.param(8443, 40000, id="container serves an intercepted port"),
        pytest.param(5353, 8443, id="client uses an intercepted port"),
    ],
)
def test_a_containers_answers_pass_whatever_the_ports(
    host: "Host", closed: bool, server_port: int, client_port: int
) -> None:
    kernel = host.kernel(ports=(80, 8443), closed=closed)
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()

    assert host.answer_to(container, server_port, client_port) == "answer"
