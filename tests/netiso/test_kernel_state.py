"""Comparing what was loaded with what is there."""

from dataclasses import replace

import pytest

from netiso.kernel_state import OWNER, Chain, Rule, Table, TableState, differences


def a_state(
    *,
    flags: int = OWNER,
    owner: int = 77,
    priority: int = -105,
    rules: tuple[str, ...] = ("aa", "bb"),
    sets: dict[str, frozenset[bytes]] | None = None,
) -> TableState:
    return TableState(
        table=Table(name="t", flags=flags, owner=owner),
        chains=(Chain(name="c", kind="nat", hook=3, priority=priority, policy=1),),
        rules=tuple(
            Rule(chain="c", handle=handle, digest=digest, packets=handle)
            for handle, digest in enumerate(rules)
        ),
        sets={"s": frozenset({b"1", b"2"})} if sets is None else sets,
    )


def test_the_same_state_has_no_differences() -> None:
    assert differences(a_state(), a_state()) == ()


def test_counters_and_handles_are_no_difference() -> None:
    found = a_state()
    moved = tuple(replace(rule, handle=rule.handle + 10, packets=9) for rule in found.rules)
    assert differences(a_state(), replace(found, rules=moved)) == ()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(None, "table t is gone", id="no table"),
        pytest.param(a_state(flags=OWNER | 1), "dormant", id="switched off as a whole"),
        pytest.param(a_state(owner=0), "owner 0", id="no longer owned"),
        pytest.param(a_state(priority=-95), "chain c of t is not as loaded", id="other priority"),
        pytest.param(a_state(rules=("aa",)), "has 1 rules", id="rule gone"),
        pytest.param(a_state(rules=("bb", "aa")), "are not the 2", id="other order"),
        pytest.param(a_state(rules=("aa", "bb", "cc")), "has 3 rules", id="rule more"),
        pytest.param(a_state(sets={}), "set s of t is gone", id="no set"),
        pytest.param(
            a_state(sets={"s": frozenset({b"1", b"2"}), "x": frozenset()}),
            "set x of t is not ours",
            id="set more",
        ),
        pytest.param(
            a_state(sets={"s": frozenset({b"1", b"3"})}),
            "lacks 1 elements and has 1",
            id="other element",
        ),
        pytest.param(replace(a_state(), chains=()), "chain c of t is gone", id="chain gone"),
    ],
)
def test_each_difference_is_said(found: TableState | None, said: str) -> None:
    assert said in "; ".join(differences(a_state(), found))
