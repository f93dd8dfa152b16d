"""How a container is connected, asked of the kernel: bridges, and what goes past them."""

import pytest

from netiso.isolation import Cut, Isolation, standing
from netiso.links import reach_of, read_links
from tests.netiso.yard import SPARE, Yard, interfaces, ip
from webguard.model import Network

pytestmark = pytest.mark.system

ISOLATION = Isolation(spare=SPARE)


def test_a_containers_reach_is_found_from_its_first_process(yard: Yard) -> None:
    pids = yard.containers
    none, macvlan = yard.bare(), yard.bare()
    ip("link add mv0 link veth0 type macvlan mode bridge")
    ip(f"link set mv0 netns {macvlan}")
    links, found = read_links(), interfaces()

    said = {
        name: standing(Network.PRIVATE, reach_of(pid, links), found, ISOLATION)
        for name, pid in {**pids, "none": none, "macvlan": macvlan}.items()
    }

    assert {name: each.cut for name, each in said.items()} == {
        "a": Cut.YES,
        "b": Cut.YES,
        "c": Cut.YES,
        "none": Cut.YES,
        "macvlan": Cut.NO,
    }
    assert said["a"].why == "cut at p-odd"


def test_an_interface_that_leads_past_the_host_makes_a_container_partly_cut(yard: Yard) -> None:
    """As in an overlay network: one veth to the host, another to a namespace in between."""
    between = yard.bare()
    ip(f"link add name over0 netns {yard.containers['a']} type veth peer name o0 netns {between}")
    links = read_links()

    reach = reach_of(yard.containers["a"], links)

    assert reach.elsewhere == ("over0",)
    assert standing(Network.PRIVATE, reach, interfaces(), ISOLATION).cut is Cut.PARTLY


def test_a_process_that_is_gone_has_no_reach(yard: Yard) -> None:
    with pytest.raises(ProcessLookupError):
        reach_of(2**22 + 1, read_links())
