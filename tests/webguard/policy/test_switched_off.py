"""For whom web inspection is switched off, and when that means that a host is not protected."""

import pytest

from webguard.policy.decide import Policy
from webguard.policy.groups import Group, Match
from webguard.policy.show import switched_off, why_off

BANKS = Group(name="banks", match=Match(names=("bank",)), enabled=False)
SHOPS = Group(name="shops", match=Match(names=("shop",)))
NOBODYS = Group(name="unknown", enabled=False)
NOTHING = "web.enabled is false: nothing is inspected"


@pytest.mark.parametrize(
    ("policy", "off", "why"),
    [
        pytest.param(Policy(), (), "", id="nobody"),
        pytest.param(Policy(groups=(BANKS, SHOPS)), ("banks",), "", id="a group"),
        pytest.param(Policy(groups=(NOBODYS,)), ("unknown",), "", id="the unknown"),
        pytest.param(Policy(enabled=False), ("default",), NOTHING, id="everybody"),
        pytest.param(
            Policy(groups=(BANKS, Group(name="rest", enabled=False))),
            ("banks", "rest"),
            NOTHING,
            id="everybody, by a group without match",
        ),
        pytest.param(
            Policy(enabled=False, groups=(Group(name="rest"),)),
            (),
            "",
            id="settings that a group for everybody overrules",
        ),
        pytest.param(
            Policy(enabled=False, groups=(BANKS, SHOPS)),
            ("default", "banks"),
            "web.enabled is false: only groups are inspected: shops",
            id="all but a group",
        ),
    ],
)
def test_it_says_for_whom_and_whether_that_is_an_exception(
    policy: Policy, off: tuple[str, ...], why: str
) -> None:
    assert switched_off(policy) == off
    assert why_off(policy) == why
