"""What is in force for a container, and what another policy would change."""

from webguard.model import Action, Container
from webguard.policy.decide import Policy
from webguard.policy.diff import Change, ListChange, compare
from webguard.policy.groups import Group, Match
from webguard.policy.hashes import HashList
from webguard.policy.show import Effective, ListInUse, effective
from webguard.policy.urls import Kind, UrlList

SHOP = Container(runtime="docker", id="1", started=1, pid=1, name="shop")
OTHER = Container(runtime="docker", id="2", started=1, pid=2, name="other")
ADS = UrlList(name="ads", kind=Kind.BLOCKED, entries=("a.example", "b.example"), description="d")
MORE = UrlList(name="ads", kind=Kind.BLOCKED, entries=("b.example", "c.example", "d.example"))
OWN = UrlList(name="own", kind=Kind.ALLOWED, entries=("x.example",))
BAD = HashList(name="bad", entries=(("a" * 32, ""),))
STRICT = Group(name="strict", match=Match(names=("shop",)), unscanned=Action.BLOCK, lists=("own",))


def test_the_settings_of_a_container_are_shown_with_its_group() -> None:
    policy = Policy(groups=(STRICT,), lists=(ADS, OWN), hashes=(BAD,))
    hashes = ListInUse(name="bad", kind="hashes", entries=1)
    own = ListInUse(name="own", kind="allowed", entries=1)

    assert effective(policy, SHOP) == Effective(
        group="strict", enabled=True, unscanned="block", on_failure="open", lists=(own, hashes)
    )
    assert effective(policy, OTHER) == Effective(
        group="default",
        enabled=True,
        unscanned="allow",
        on_failure="open",
        lists=(own, ListInUse(name="ads", kind="blocked", entries=2, description="d"), hashes),
    )
    assert effective(policy, None).group == "unknown"


def test_the_same_policy_changes_nothing() -> None:
    policy = Policy(groups=(STRICT,), lists=(ADS, OWN), hashes=(BAD,))

    assert compare(policy, policy, [SHOP, OTHER]).nothing


def test_a_change_is_told_for_the_containers_that_it_is_about() -> None:
    old = Policy(lists=(OWN,))

    found = compare(old, Policy(groups=(STRICT,), lists=(OWN,)), [SHOP, OTHER])

    assert [each.container for each in found.containers] == [SHOP]
    assert found.containers[0].changes == (
        Change(setting="group", before="default", after="strict"),
        Change(setting="web.unscanned", before="allow", after="block"),
    )
    assert not found.nothing


def test_the_unknown_are_told_like_a_container() -> None:
    found = compare(Policy(), Policy(on_failure="closed", enabled=False), [])

    assert [each.container for each in found.containers] == [None]
    assert found.containers[0].changes == (
        Change(setting="web.enabled", before="true", after="false"),
        Change(setting="web.on_failure", before="open", after="closed"),
    )


def test_what_changes_in_a_list_is_counted_and_told_to_those_who_use_it() -> None:
    old = Policy(groups=(STRICT,), lists=(ADS, OWN))

    found = compare(old, Policy(groups=(STRICT,), lists=(MORE, OWN)), [SHOP, OTHER])

    assert found.lists == (
        ListChange(
            name="ads",
            kind="blocked",
            added=2,
            removed=1,
            examples=("+c.example", "+d.example", "-a.example"),
        ),
    )
    assert [each.container for each in found.containers] == [OTHER, None]
    assert found.containers[0].changes == (
        Change(setting="list:ads", before="blocked, 2 entries", after="blocked, 3 entries (+2 -1)"),
    )


def test_a_list_that_keeps_its_size_is_a_change_as_well() -> None:
    swapped = UrlList(name="own", kind=Kind.ALLOWED, entries=("y.example",))

    found = compare(Policy(lists=(OWN,)), Policy(lists=(swapped,)), [SHOP])

    assert found.containers[0].changes[0].after == "allowed, 1 entries (+1 -1)"


def test_lists_come_go_and_change_their_kind() -> None:
    turned = UrlList(name="own", kind=Kind.BLOCKED, entries=OWN.entries)

    found = compare(Policy(lists=(ADS, OWN)), Policy(lists=(turned,), hashes=(BAD,)), [])

    assert {(each.name, each.kind, each.added, each.removed) for each in found.lists} == {
        ("ads", "blocked", 0, 2),
        ("own", "blocked", 0, 0),
        ("bad", "hashes", 1, 0),
    }
    assert {(each.setting, each.after) for each in found.containers[0].changes} == {
        ("list:ads", "not used"),
        ("list:own", "blocked, 1 entries (+0 -0)"),
        ("list:bad", "hashes, 1 entries"),
    }


def test_the_examples_of_a_large_change_are_few() -> None:
    many = UrlList(
        name="ads", kind=Kind.BLOCKED, entries=tuple(f"h{number}.example" for number in range(999))
    )

    (change,) = compare(Policy(), Policy(lists=(many,)), []).lists

    assert (change.added, len(change.examples)) == (999, 20)
