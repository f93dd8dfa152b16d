"""What is left of the tables when their owner goes: by its own will, or killed."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from netiso.apply import Kernel, next_generation
from netiso.kernel_state import read, read_tables
from webguard.errors import HostError

if TYPE_CHECKING:
    from tests.netiso.conftest import Host

pytestmark = pytest.mark.system

FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])
type Nft = Callable[[str], str]


def tables() -> set[str]:
    return {table.name for table in read_tables()}


def kill(owner: subprocess.Popen[str]) -> None:
    """SIGKILL; when wait returns, the kernel has closed its descriptors."""
    owner.kill()
    owner.wait(timeout=10)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_nobody_else_can_change_the_tables(host: "Host", nft: Nft, closed: bool) -> None:
    kernel = host.kernel(closed=closed)
    kernel.load()

    for table in tables():
        assert "Operation not permitted" in nft(f"delete table inet {table}")
        assert "Operation not permitted" in nft(f"flush chain inet {table} output")
        assert "Operation not permitted" in nft(f"flush set inet {table} cg1")
    nft("flush ruleset")
    assert kernel.differences() == ()


@FAMILIES
def test_open_a_killed_daemon_leaves_the_network_as_it_was(host: "Host", family: str) -> None:
    container = host.cgroup()
    owner = host.owner(container)
    assert host.ask(container, host.origin[family], 80) == "proxy"

    kill(owner)

    # A helper that the daemon had started with its descriptors is still alive.
    assert tables() == set()
    assert host.ask(container, host.origin[family], 80) == "origin"


@FAMILIES
def test_closed_a_killed_daemon_leaves_the_ports_shut_and_nothing_to_steal(
    host: "Host", nft: Nft, family: str
) -> None:
    """The proxy of this test, which goes on listening, is the attacker here."""
    container = host.cgroup()
    owner = host.owner(container, closed=True)
    assert host.ask(container, host.origin[family], 80) == "proxy"

    kill(owner)
    host.proxy.asked.clear()

    assert tables() == {f"{host.instance}_closed_1"}
    assert host.ask(container, host.origin[family], 80) == "ECONNREFUSED"
    assert host.ask(container, host.origin[family], 443, "SOCK_DGRAM") in ("EPERM", "ECONNREFUSED")
    assert host.proxy.asked == []
    assert host.ask(None, host.origin[family], 80) == "origin"
    assert host.ask(container, host.origin[family], 9999) == "origin"


def test_closed_docker_cannot_map_a_connection_past_a_dead_daemon(host: "Host", nft: Nft) -> None:
    container = host.cgroup()
    owner = host.owner(container, closed=True)
    assert not nft(
        "add table ip nat\n"
        "add chain ip nat o { type nat hook output priority -100; }\n"
        f"add rule ip nat o tcp dport 80 dnat to {host.origin['v4']}:9999"
    )

    kill(owner)

    assert host.ask(container, host.own["v4"], 80) == "ECONNREFUSED"
    assert host.ask(None, host.own["v4"], 80) == "origin"


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_closed_packets_marked_notrack_do_not_get_past_a_dead_daemon(
    host: "Host", nft: Nft, kind: str
) -> None:
    container = host.cgroup()
    owner = host.owner(container, closed=True)
    assert not nft(
        "add table inet evil\n"
        "add chain inet evil o { type filter hook output priority -300; }\n"
        "add rule inet evil o meta l4proto { tcp, udp } notrack"
    )

    kill(owner)

    assert host.ask(container, host.origin["v4"], 80, kind) in ("EPERM", "ECONNREFUSED")
    assert host.ask(None, host.origin["v4"], 80, kind) == "origin"


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_daemon_that_ends_in_order_leaves_no_table(host: "Host", closed: bool) -> None:
    owner = host.owner(closed=closed)
    assert tables() != set()

    owner.communicate("", timeout=10)

    assert owner.returncode == 0
    assert tables() == set()


def test_what_a_killed_daemon_left_is_taken_over_and_then_removed(host: "Host", nft: Nft) -> None:
    container = host.cgroup()
    kill(host.owner(container, closed=True, generation=4))
    assert next_generation(host.instance) == 5

    kernel = host.kernel(closed=True, generation=5)
    assert kernel.adopt() == (f"{host.instance}_closed_4",)
    assert "Operation not permitted" in nft(f"delete table inet {host.instance}_closed_4")
    assert host.ask(container, host.origin["v4"], 80) == "ECONNREFUSED"
    kernel.load()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()
    kernel.discard_adopted()

    assert tables() == {f"{host.instance}_closed_5", f"{host.instance}_web_5"}
    assert host.ask(container, host.origin["v4"], 80) == "proxy"


def test_what_was_taken_over_goes_with_an_orderly_end_too(host: "Host") -> None:
    kill(host.owner(closed=True))
    kernel = host.kernel(generation=2)
    kernel.adopt()

    kernel.close()

    assert tables() == set()


def test_a_table_of_our_name_that_somebody_else_made_does_not_stay(host: "Host", nft: Nft) -> None:
    assert not nft(f"add table inet {host.instance}_web_1")
    assert not nft(f"add table inet {host.instance}other_web_1")
    kernel = host.kernel(generation=2)

    assert kernel.adopt() == ()

    assert tables() == {f"{host.instance}other_web_1"}


def test_a_second_daemon_of_the_same_instance_is_refused(host: "Host") -> None:
    host.owner()
    kernel = host.kernel(generation=2)

    with pytest.raises(HostError, match="stop the webguard of instance"):
        kernel.adopt()


def test_a_second_owner_of_the_same_table_fails_and_does_no_harm(host: "Host") -> None:
    first = host.kernel(closed=True)
    first.load()
    second = host.kernel(closed=True)

    with pytest.raises(HostError, match="not permitted"):
        second.load()
    second.close()

    assert first.differences() == ()


def test_a_new_generation_takes_over_without_a_gap(host: "Host") -> None:
    container = host.cgroup()
    old, new = host.kernel(closed=True, generation=1), host.kernel(closed=True, generation=2)
    for kernel in (old, new):
        kernel.load()
        kernel.add_cgroups([host.entry(container)])
        kernel.redirect_containers()
        assert host.ask(container, host.origin["v4"], 80) == "proxy"

    old.close()

    assert host.ask(container, host.origin["v4"], 80) == "proxy"
    assert new.differences() == ()


def sockets() -> dict[int, str]:
    """Our process's sockets: descriptor -> which socket."""
    links = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            links[int(entry.name)] = str(entry.readlink())
    return {number: link for number, link in links.items() if link.startswith("socket:")}


def test_no_socket_of_ours_is_inherited(host: "Host") -> None:
    before = set(sockets().values())

    host.kernel().load()

    ours = [number for number, link in sockets().items() if link not in before]
    assert len(ours) == 2  # libnftables' descriptor and our duplicate
    assert not any(os.get_inheritable(each) for each in ours)


def test_a_kernel_that_refuses_us_is_an_error_with_a_remedy(host: "Host") -> None:
    """In a user namespace of its own a process has no power over this network."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from netiso.apply import Kernel\n"
        "from netiso.redirect import Redirect\n"
        "from webguard.errors import HostError\n"
        "try: Kernel(Redirect(instance='a', generation=1, proxy_port=2, ports=(3,)))\n"
        "except HostError as error: print(error)\n"
    )
    repository = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-I", "-c", program, repository],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    assert "nf_tables" in done.stdout
    assert "CAP_NET_ADMIN" in done.stdout


def test_probing_and_failing_leave_nothing_behind(host: "Host") -> None:
    kernel = host.kernel(closed=True)

    assert isinstance(kernel, Kernel)
    assert tables() == set()
    assert read(f"{host.instance}_probe") is None
