"""Files of policy.d: which container is in which group, and what an operator gets wrong."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from webguard.errors import ConfigError
from webguard.model import Action, Container
from webguard.policy import groupfiles
from webguard.policy.config import Config, parse
from webguard.policy.groupfiles import GroupFile
from webguard.policy.groups import Group, Match

EXAMPLE = Path(__file__).parents[3] / "deploy" / "policy.d" / "groups.yaml.example"
LISTS = {"ads": True, "partners": True, "later": False}
STRICT = parse(b"web: {unscanned: block, on_failure: closed, enabled: false}", "f")


def load(folder: Path, text: str, config: Config | None = None) -> tuple[Group, ...]:
    (folder / "a.yaml").write_text(text)
    return groupfiles.load(folder, config or Config(), LISTS)


def container(**facts: object) -> Container:
    known = {"runtime": "docker", "id": "c1", "started": 1, "pid": 2} | facts
    return Container(**known)  # type: ignore[arg-type]


def test_a_group_gets_what_it_does_not_say_from_the_settings(tmp_path: Path) -> None:
    text = "groups:\n- name: a\n  match: {name: x}\n  web: {unscanned: allow}\n- name: b\n"

    a, b = load(tmp_path, text, STRICT)

    assert (a.enabled, a.unscanned, a.on_failure, a.lists) == (
        False,
        Action.ALLOW,
        "closed",
        None,
    )
    assert (b.enabled, b.unscanned, b.on_failure) == (False, Action.BLOCK, "closed")
    assert b.match.everything


def test_files_count_in_the_order_of_their_names_and_groups_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "20.yaml").write_text("groups:\n- name: c\n")
    (tmp_path / "10.yaml").write_text(
        "groups:\n- {name: b, match: {name: x}}\n- {name: a, match: {name: y}}\n"
    )

    found = groupfiles.load(tmp_path, Config(), {})

    assert [each.name for each in found] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("match", "facts", "expected"),
    [
        pytest.param("", {}, True, id="empty"),
        pytest.param("name: shop-*", {"name": "shop-1"}, True, id="name"),
        pytest.param("name: shop-*", {"name": "my-shop-1"}, False, id="whole name"),
        pytest.param("name: shop-*", {}, False, id="no name known"),
        pytest.param("name: Shop", {"name": "shop"}, False, id="case"),
        pytest.param("name: [a, b]", {"name": "b"}, True, id="one of two names"),
        pytest.param("name: 'a[bc]'", {"name": "ab"}, False, id="brackets are no wildcard"),
        pytest.param("image: 'r.example/*:1'", {"image": "r.example/a/b:1"}, True, id="image"),
        pytest.param("label: a=b", {"labels": (("a", "b"),)}, True, id="label"),
        pytest.param("label: a=b*", {"labels": (("a", "b=c"),)}, True, id="equals in a value"),
        pytest.param("label: [a=b, c=d]", {"labels": (("a", "b"),)}, False, id="all labels"),
        pytest.param("label: a=*", {"labels": (("b", "a"),)}, False, id="other key"),
        pytest.param("runtime: podman", {}, False, id="runtime"),
        pytest.param("runtime: [podman, docker]", {}, True, id="one of two runtimes"),
        pytest.param("{name: a, image: b}", {"name": "a", "image": "c"}, False, id="all keys"),
        pytest.param("name: a?c", {"name": "a\nc"}, True, id="a name of any characters"),
    ],
)
def test_a_container_matches(
    tmp_path: Path, match: str, facts: dict[str, object], expected: bool
) -> None:
    inner = match if match.startswith("{") else f"\n    {match}"

    (group,) = load(tmp_path, f"groups:\n- name: a\n  match: {inner}\n")

    assert group.match.fits(container(**facts)) is expected


def test_a_name_that_is_made_to_take_long_does_not() -> None:
    """With a naive expression this would take for ever."""
    assert not Match(names=("*a*a*a*a*a*a*a*b",)).fits(container(name="a" * 100_000))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        pytest.param("group: []", 1, "did you mean groups?", id="typo"),
        pytest.param("groups:\n- nmae: a", 2, "'groups.0.", id="typo in a group"),
        pytest.param("groups:\n- match: {}", 2, "no key 'groups.0.name'", id="no name"),
        pytest.param("groups:\n- name: A", 2, "a-z", id="name"),
        pytest.param("groups: {a: {}}", 1, "write a list of groups", id="map"),
        pytest.param("groups:\n- a", 2, "this is not a section", id="word for a group"),
        pytest.param("groups:\n- name: a\n  match: x", 3, "keys of match", id="word for match"),
        pytest.param("groups:\n- name: a\n  match:\n    nam: x", 4, "mean name?", id="match key"),
        pytest.param("groups:\n- name: a\n  match:\n    name: 5", 4, "wild", id="number"),
        pytest.param("groups:\n- name: a\n  match:\n    name:\n", 4, "wild", id="null"),
        pytest.param("groups:\n- name: a\n  match:\n    name: []", 4, "wild", id="none"),
        pytest.param("groups:\n- name: a\n  match:\n    label: a", 4, "key=value", id="label"),
        pytest.param("groups:\n- name: a\n  match:\n    label: a*=b", 4, "key=value", id="key"),
        pytest.param("groups:\n- name: a\n  match:\n    runtime: lxc", 4, "cri", id="runtime"),
        pytest.param("groups:\n- name: a\n  web:\n    ports: [1]", 4, "keys here", id="web key"),
        pytest.param("groups:\n- name: a\n  web:\n    enabled: on", 4, "true or", id="on"),
        pytest.param("groups:\n- name: a\n  web:\n    unscanned:", 4, "allow or", id="null value"),
        pytest.param(
            "groups:\n- name: a\n  web:\n    lists: [ads, adds]", 4, "the lists are: ads", id="list"
        ),
        pytest.param("groups:\n- name: a\n  web:\n    lists: [ads, ads]", 4, "twice", id="twice"),
        pytest.param(
            "groups:\n- {name: a, match: {name: x}}\n- name: a", 3, "already", id="same name"
        ),
        pytest.param("groups:\n- name: a\n- name: b", 3, "never reached", id="behind everything"),
        pytest.param(
            "groups:\n- {name: default, match: {name: x}}", 2, "every container", id="default"
        ),
        pytest.param(
            "groups:\n- {name: unknown, match: {name: x}}", 2, "nobody knows", id="unknown"
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_a_remedy(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert caught.value.where == f"{tmp_path / 'a.yaml'}:{line}"
    assert problem in caught.value.problem
    assert caught.value.problem.endswith(")")


def test_one_name_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text("groups:\n- {name: a, match: {name: x}}\n")
    (tmp_path / "2.yaml").write_text("\ngroups:\n- {name: a, match: {name: y}}\n")

    with pytest.raises(ConfigError, match=r"1\.yaml:2 already") as caught:
        groupfiles.load(tmp_path, Config(), {})

    assert caught.value.where == f"{tmp_path / '2.yaml'}:3"


def test_the_group_of_the_unknown_may_stand_anywhere(tmp_path: Path) -> None:
    assert load(tmp_path, "groups:\n- name: unknown\n- name: a\n")
    assert load(tmp_path, "groups:\n- name: a\n- name: unknown\n")


def test_a_list_that_is_not_active_may_be_named_and_is_not_used(tmp_path: Path) -> None:
    (group,) = load(tmp_path, "groups:\n- name: a\n  web: {lists: [later, ads]}\n")

    assert group.lists == ("ads",)


def keys_of(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys |= keys_of(inner)
    return keys


def test_the_example_is_a_policy_and_holds_every_key(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()

    assert [each.name for each in load(tmp_path, text)] == ["payments", "unknown", "default"]
    written = {line.strip(" -").partition(":")[0] for line in text.splitlines()}
    assert keys_of(GroupFile) | keys_of(groupfiles.GroupKeys) <= written
