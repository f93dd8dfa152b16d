"""What keeps us from saying "protected", fact by fact."""

import pytest

from webguard.daemon.protection import FRESH, Protection

NOW = 1000.0


def everything(workers: int = 2) -> Protection:
    """All facts there, and fresh."""
    return Protection(
        expected_workers=workers,
        live=True,
        seen={"IPv4": NOW, "IPv6": NOW},
        reported=dict.fromkeys(range(1, workers + 1), NOW),
        differences=(),
        verified=NOW,
    )


def test_with_all_facts_nothing_is_missing() -> None:
    assert everything().missing(NOW) == ()


def test_a_new_daemon_is_not_protected() -> None:
    assert Protection(expected_workers=1).missing() != ()


def test_what_switched_interception_off_is_all_that_is_said() -> None:
    facts = everything()
    facts.live, facts.why_not_live = False, "the daemon is stopping"
    assert facts.missing(NOW) == ("interception is off: the daemon is stopping",)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("age", [None, FRESH, 100.0])
def test_a_probe_that_was_not_seen_lately_is_missing(family: str, age: float | None) -> None:
    facts = everything()
    if age is None:
        del facts.seen[family]
    else:
        facts.seen[family] = NOW - age
    assert facts.missing(NOW) == (f"the self-test over {family} was not seen by a worker",)


def test_a_host_without_ipv6_needs_no_probe_of_it() -> None:
    facts = everything()
    facts.v6 = False
    del facts.seen["IPv6"]
    assert facts.missing(NOW) == ()


def test_one_silent_worker_of_several_is_enough() -> None:
    facts = everything(workers=3)
    facts.reported[2] = NOW - 2.0
    assert facts.silent(NOW) == 1
    assert facts.missing(NOW) == ("1 of 3 workers do not report",)


def test_every_difference_of_the_rules_is_named() -> None:
    facts = everything()
    facts.differences = ("table a is gone", "set b lacks 1 elements")
    assert facts.missing(NOW) == (
        "the kernel's rules differ: table a is gone",
        "the kernel's rules differ: set b lacks 1 elements",
    )


def test_rules_that_nobody_reads_back_are_not_trusted() -> None:
    facts = everything()
    facts.verified = NOW - 2 * FRESH
    assert facts.missing(NOW) == ("the kernel's rules were not read back",)


def test_all_that_is_missing_is_said() -> None:
    facts = everything()
    facts.seen.clear()
    facts.reported.clear()
    assert len(facts.missing(NOW)) == 3


def test_what_is_switched_off_is_missing_but_does_not_fail() -> None:
    facts = everything()
    facts.switched_off = "web.enabled is false: nothing is inspected"
    assert facts.missing(NOW) == (facts.switched_off,)
    assert facts.failing(NOW) == ()
