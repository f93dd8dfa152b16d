"""Sets, verification and watching, in a real kernel."""

import itertools
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from netiso import netlink
from netiso.cgroup_watch import CgroupWatch
from netiso.kernel_state import TableWatch, read, rivals
from webguard.errors import HostError

if TYPE_CHECKING:
    from tests.netiso.conftest import Host

pytestmark = pytest.mark.system

type Nft = Callable[[str], str]


def ids(table: str, name: str) -> set[int]:
    state = read(table)
    assert state
    return {int.from_bytes(key, "little") for key in state.sets[name]}


def test_loading_twice_is_the_same_as_once_and_keeps_the_sets(host: "Host") -> None:
    kernel = host.kernel(closed=True)
    kernel.load()
    container = host.cgroup("one")
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()
    before = read(kernel.redirect.web_table)

    kernel.load()

    after = read(kernel.redirect.web_table)
    assert before
    assert after
    assert [rule.digest for rule in after.rules] == [rule.digest for rule in before.rules]
    assert kernel.differences() == ()
    assert host.ask(container, host.origin["v4"], 80) == "proxy"


def test_thousands_of_cgroups_come_and_go_in_both_tables(host: "Host") -> None:
    kernel = host.kernel(closed=True)
    kernel.load()
    wanted = [(2, 10**12 + n) for n in range(4000)]  # ids of nobody: no path is asked for

    kernel.add_cgroups(wanted)

    for table in (kernel.redirect.web_table, kernel.redirect.closed_table):
        assert ids(table, "cg2") == {each for _, each in wanted}
    assert kernel.differences() == ()
    kernel.remove_cgroups(wanted)
    assert ids(kernel.redirect.web_table, "cg2") == set()
    assert kernel.differences() == ()


def test_adding_what_is_there_and_removing_what_is_not_is_no_error(host: "Host") -> None:
    kernel = host.kernel()
    kernel.load()

    kernel.add_cgroups([(1, 5), (1, 5), (2, 6)])
    kernel.add_cgroups([(1, 5), (1, 7)])
    kernel.remove_cgroups([(1, 5), (1, 99), (3, 99)])

    assert ids(kernel.redirect.web_table, "cg1") == {7}
    assert ids(kernel.redirect.web_table, "cg2") == {6}
    assert kernel.differences() == ()


def test_what_the_kernel_refuses_is_an_error_and_not_remembered_as_done(host: "Host") -> None:
    kernel = host.kernel(closed=True)
    kernel.load()
    closed = kernel.redirect.closed_table
    kernel.apply(f"flush chain inet {closed} containers\ndelete set inet {closed} cg3")
    kernel.add_cgroups([(1, 5)])

    with pytest.raises(HostError, match=r"change the sets.*No such file"):
        kernel.add_cgroups([(1, 6), (3, 7)])

    # One transaction: the first table did not change either.
    assert ids(kernel.redirect.web_table, "cg1") == {5}
    assert ids(kernel.redirect.web_table, "cg3") == set()
    assert f"set cg3 of {closed} is gone" in kernel.differences()


@pytest.mark.parametrize("level", [0, 9], ids=["the root, which is everybody", "too deep"])
def test_a_level_without_a_rule_is_refused(host: "Host", level: int) -> None:
    kernel = host.kernel()
    kernel.load()

    with pytest.raises(ValueError, match="level"):
        kernel.add_cgroups([(level, 5)])


def test_cgroups_before_loading_are_not_lost_silently(host: "Host") -> None:
    with pytest.raises(RuntimeError, match="before the tables were loaded"):
        host.kernel().add_cgroups([(1, 5)])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param("flush chain inet {web} containers", "chain containers", id="rules gone"),
        pytest.param(
            "insert rule inet {web} output tcp dport 80 return", "chain output", id="rule before"
        ),
        pytest.param("flush set inet {web} cg1", "set cg1", id="set emptied"),
        pytest.param("flush set inet {web} live", "set live", id="switched off"),
        pytest.param("delete table inet {web}", "is gone", id="table gone"),
        pytest.param("flush chain inet {closed} output", "chain output", id="closed opened"),
        pytest.param("add set inet {web} more {{ type mark; }}", "set more", id="a set more"),
    ],
)
def test_what_is_no_longer_as_loaded_is_noticed(host: "Host", damage: str, said: str) -> None:
    kernel = host.kernel(closed=True)
    kernel.load()
    kernel.add_cgroups([(1, 5)])
    kernel.redirect_containers()
    assert kernel.differences() == ()

    names = {"web": kernel.redirect.web_table, "closed": kernel.redirect.closed_table}
    kernel.apply(damage.format(**names))

    assert said in "; ".join(kernel.differences())


def test_tables_that_cannot_be_read_do_not_pass_for_loaded(
    host: "Host", monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = host.kernel()
    kernel.load()
    monkeypatch.setattr(netlink, "_DUMP_TRIES", 0)

    assert "change faster than they can be read" in "; ".join(kernel.differences())


def test_a_reading_is_all_from_one_moment(host: "Host", nft: Nft) -> None:
    """Another program swaps 600 chains for 600 others, again and again."""
    swaps = [
        "delete table inet other\nadd table inet other\n"
        + "".join(f"add chain inet other {letter}{n}\n" for n in range(600))
        for letter in "ab"
    ]
    assert not nft(f"add table inet other\n{swaps[0]}")
    stop = threading.Event()

    def swap() -> None:
        for commands in itertools.cycle(swaps):
            if stop.is_set():
                return
            nft(commands)

    program = threading.Thread(target=swap)
    program.start()
    try:
        for _ in range(30):
            with suppress(HostError):  # too fast to be read at all, which is said
                state = read("other")
                assert state
                assert len({chain.name[0] for chain in state.chains}) == 1
                assert len(state.chains) == 600
    finally:
        stop.set()
        program.join()


def test_traffic_is_no_difference(host: "Host") -> None:
    kernel = host.kernel()
    kernel.load()
    container = host.cgroup()
    kernel.add_cgroups([host.entry(container)])
    kernel.redirect_containers()

    host.ask(container, host.origin["v4"], 80)

    assert kernel.packets()["redirected"] == 1
    assert kernel.differences() == ()


def test_a_change_of_our_tables_is_heard_and_others_are_not(host: "Host", nft: Nft) -> None:
    kernel = host.kernel()
    kernel.load()
    watch = TableWatch(host.instance)
    host.stack.callback(watch.close)

    assert not watch.drain()
    assert not nft("add table inet other\nadd set inet other s { type mark; }")
    assert select.select([watch], [], [], 5)[0]
    assert not watch.drain()
    kernel.apply(f"flush chain inet {kernel.redirect.web_table} containers")
    assert watch.drain()
    assert not watch.drain()
    # A chain of others may map destinations before ours.
    assert not nft("add chain inet other c { type nat hook output priority -150; }")
    assert watch.drain()


def test_a_flood_of_changes_that_overruns_us_counts_as_a_change(host: "Host", nft: Nft) -> None:
    watch = TableWatch(host.instance)
    host.stack.callback(watch.close)
    assert not nft("add table inet other\nadd set inet other s { type mark; }")
    numbers = ", ".join(str(n) for n in range(20_000))

    assert not nft(f"add element inet other s {{ {numbers} }}")

    heard = False
    while select.select([watch], [], [], 0)[0]:
        heard |= watch.drain()
    assert heard


@pytest.mark.parametrize(
    ("chain", "count"),
    [
        pytest.param("type nat hook output priority -105", 1, id="same priority"),
        pytest.param("type nat hook output priority -150", 1, id="before us"),
        pytest.param("type nat hook output priority -100", 0, id="Docker's place"),
        pytest.param("type filter hook output priority -300", 0, id="filter"),
        pytest.param("type nat hook prerouting priority -150", 0, id="other hook"),
    ],
)
@pytest.mark.parametrize("family", ["ip", "inet"])
def test_chains_that_map_before_ours_are_named(
    host: "Host", nft: Nft, chain: str, count: int, family: str
) -> None:
    host.kernel().load()
    assert not nft(f"add table {family} other\nadd chain {family} other c {{ {chain}; }}")

    assert len(rivals(host.instance)) == count


def test_a_container_that_is_started_again_is_intercepted_and_its_old_id_forgotten(
    host: "Host",
) -> None:
    kernel = host.kernel()
    kernel.load()
    kernel.redirect_containers()
    container = host.cgroup("ab" * 32)
    parent = container.parent
    watch = CgroupWatch(parent)
    host.stack.callback(watch.close)
    # This watch's root is a level below the real one.
    first = [(level + 1, each) for level, each, _ in watch.scan().added]
    kernel.add_cgroups(first)
    assert host.ask(container, host.origin["v4"], 80) == "proxy"

    container.rmdir()
    container.mkdir()
    assert host.ask(container, host.origin["v4"], 80) == "origin"  # the id is stale
    changes = watch.drain()
    kernel.add_cgroups((level + 1, each) for level, each, _ in changes.added)
    kernel.remove_cgroups((level + 1, each) for level, each, _ in changes.removed)

    assert host.ask(container, host.origin["v4"], 80) == "proxy"
    assert ids(kernel.redirect.web_table, "cg2") == {container.stat().st_ino}
    assert first != [host.entry(container)]
