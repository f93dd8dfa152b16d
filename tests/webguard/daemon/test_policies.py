"""Differences between settings are told by their names, one by one."""

import pytest

from webguard.daemon.policies import settings_between
from webguard.policy.config import parse


def changed(before: str, after: str) -> dict[str, tuple[object, object]]:
    old, new = (parse(text.encode(), "x.yaml") for text in (before, after))
    return {each["setting"]: (each["before"], each["after"]) for each in settings_between(old, new)}


def test_the_same_settings_differ_in_nothing() -> None:
    assert changed("web: {ports: [80]}", "web:\n  ports: [80]\n") == {}


@pytest.mark.parametrize(
    ("after", "name", "values"),
    [
        ("web: {ports: [80]}", "web.ports", ([80, 443, 8080, 8443], [80])),
        ("web: {enabled: false}", "web.enabled", (True, False)),
        ("instance: other", "instance", ("webguard", "other")),
        ("log: {level: debug}", "log.level", ("info", "debug")),
    ],
    ids=["a list", "a switch", "not in a section", "a word"],
)
def test_a_change_has_the_name_of_its_key(
    after: str, name: str, values: tuple[object, object]
) -> None:
    assert changed("", after) == {name: values}
