"""Verdicts by group and by list, and a policy that cannot contradict itself."""

from pathlib import Path

import pytest

from webguard.daemon.settings import Settings
from webguard.errors import ConfigError
from webguard.model import (
    Action,
    Container,
    Detection,
    Question,
    ScanResult,
    Stage,
    Unscanned,
)
from webguard.policy.config import Config, parse
from webguard.policy.decide import Policy, decide, decide_server
from webguard.policy.groups import Group, Match
from webguard.policy.hashes import HashList
from webguard.policy.load import load_policy
from webguard.policy.urls import Kind, UrlList

SHOP = Container(runtime="docker", id="1", started=1, pid=1, name="shop")
OTHER = Container(runtime="docker", id="2", started=1, pid=2, name="other")
PARTLY = ScanResult(unscanned=(Unscanned(where="gzip", reason="a bomb"),))
FOUND = ScanResult(detections=(Detection(engine="hash", name="bad/x"),))
URL = "https://www.ads.example/x"
ADS = UrlList(name="ads", kind=Kind.BLOCKED, entries=("*.ads.example",))
OWN = UrlList(name="own", kind=Kind.ALLOWED, entries=("www.ads.example/x*",))
EVERYTHING = UrlList(name="rest", kind=Kind.BLOCKED, entries=("*",))


def ask(
    policy: Policy,
    *,
    stage: Stage = Stage.REQUEST,
    url: str = URL,
    container: Container | None = SHOP,
    scan: ScanResult | None = None,
    failure: str = "",
) -> tuple[str, str, str]:
    question = Question(stage=stage, subject=url, container=container, scan=scan, failure=failure)
    verdict = decide(policy, question)
    assert verdict.generation == policy.generation
    assert verdict.reason
    return verdict.action.value, verdict.rule, verdict.group


def test_a_blocked_address_is_not_asked_for() -> None:
    assert ask(Policy(lists=(ADS,))) == ("block", "list:ads", "default")


def test_the_reason_names_list_and_entry() -> None:
    verdict = decide(Policy(lists=(ADS,)), Question(stage=Stage.REQUEST, subject=URL))

    assert verdict.reason == "the address is in the list ads (*.ads.example)"


@pytest.mark.parametrize("order", [(ADS, OWN), (OWN, ADS)], ids=["blocked first", "allowed first"])
def test_allowed_beats_blocked(order: tuple[UrlList, ...]) -> None:
    assert ask(Policy(lists=order)) == ("allow", "list:own", "default")


def test_an_allowed_list_and_everything_blocked_permits_those_alone() -> None:
    policy = Policy(lists=(OWN, EVERYTHING))

    assert ask(policy)[0] == "allow"
    assert ask(policy, url="https://www.ads.example/y") == ("block", "list:rest", "default")
    assert ask(policy, url="")[0] == "block"


@pytest.mark.parametrize(
    ("scan", "failure", "rule"),
    [
        pytest.param(FOUND, "", "hash:bad/x", id="detection"),
        pytest.param(PARTLY, "", "web.unscanned", id="unscanned"),
        pytest.param(None, "crash", "web.on_failure", id="failure"),
    ],
)
def test_what_is_allowed_by_a_list_is_scanned_all_the_same(
    scan: ScanResult | None, failure: str, rule: str
) -> None:
    policy = Policy(lists=(OWN,), unscanned=Action.BLOCK, on_failure="closed")

    assert ask(policy, scan=scan, failure=failure) == ("block", rule, "default")


def test_a_blocked_address_is_blocked_whatever_else_fails() -> None:
    assert ask(Policy(lists=(ADS,)), scan=PARTLY, failure="crash")[1] == "list:ads"


def test_a_detection_is_said_before_a_list() -> None:
    assert ask(Policy(lists=(ADS,)), scan=FOUND)[1] == "hash:bad/x"


@pytest.mark.parametrize("stage", [Stage.RESPONSE, Stage.UPSTREAM])
def test_lists_are_about_requests(stage: Stage) -> None:
    assert ask(Policy(lists=(EVERYTHING,)), stage=stage, scan=ScanResult())[0] == "allow"


STRICT = Group(
    name="strict",
    match=Match(names=("shop",)),
    unscanned=Action.BLOCK,
    on_failure="closed",
    lists=(),
)
UNKNOWN = Group(name="unknown", unscanned=Action.BLOCK)
REST = Group(name="rest-of-them", on_failure="closed")


@pytest.mark.parametrize(
    ("container", "groups", "expected"),
    [
        pytest.param(SHOP, (STRICT,), ("block", "strict"), id="matches"),
        pytest.param(OTHER, (STRICT,), ("allow", "default"), id="matches none"),
        pytest.param(None, (STRICT,), ("allow", "unknown"), id="nobody knows it"),
        pytest.param(None, (UNKNOWN,), ("block", "unknown"), id="group of the unknown"),
        pytest.param(SHOP, (UNKNOWN,), ("allow", "default"), id="known, so not in that group"),
        pytest.param(SHOP, (REST, STRICT), ("allow", "rest-of-them"), id="the first match"),
    ],
)
def test_the_container_chooses_the_group(
    container: Container | None, groups: tuple[Group, ...], expected: tuple[str, str]
) -> None:
    found = ask(Policy(groups=groups), stage=Stage.RESPONSE, container=container, scan=PARTLY)

    assert (found[0], found[2]) == expected


def test_the_unknown_get_what_everybody_gets() -> None:
    """Otherwise a container would only have to stay unknown to escape a policy for all."""
    everybody = Group(name="all", unscanned=Action.BLOCK)

    found = ask(Policy(groups=(everybody,)), stage=Stage.RESPONSE, container=None, scan=PARTLY)

    assert found == ("block", "web.unscanned", "unknown")


def test_a_group_uses_its_own_lists() -> None:
    mild = Group(name="mild", match=Match(names=("other",)), lists=("own",))
    policy = Policy(groups=(STRICT, mild), lists=(ADS, OWN))

    assert ask(policy, container=SHOP)[1] == "default"
    assert ask(policy, container=OTHER)[1] == "list:own"
    assert ask(policy, container=None)[1] == "list:own"


def test_web_protection_that_is_off_lets_pass_and_says_so() -> None:
    off = Group(name="off", match=Match(names=("shop",)), enabled=False)
    policy = Policy(groups=(off,), lists=(ADS,))

    assert ask(policy, scan=FOUND) == ("allow", "web.enabled", "off")
    assert ask(policy, stage=Stage.CONNECTION) == ("bypass", "web.enabled", "off")
    assert ask(policy, stage=Stage.CONNECTION, container=OTHER)[0] == "allow"
    assert ask(policy, container=OTHER)[0] == "block"
    assert decide_server(policy, "ads.example", SHOP).action is Action.ALLOW


def test_a_server_of_which_only_the_name_is_known_is_judged_by_it() -> None:
    policy = Policy(generation=4, lists=(ADS,))

    blocked = decide_server(policy, "www.ADS.example", SHOP)

    assert (blocked.action, blocked.rule, blocked.generation) == (Action.BLOCK, "list:ads", 4)
    assert decide_server(policy, "example.org", None).action is Action.ALLOW
    assert decide_server(Policy(lists=(OWN, EVERYTHING)), "x", None).group == "unknown"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"groups": (STRICT, STRICT)}, id="two groups of a name"),
        pytest.param({"lists": (ADS, ADS)}, id="two lists of a name"),
        pytest.param({"lists": (ADS,), "hashes": (HashList(name="ads"),)}, id="of two kinds"),
        pytest.param({"groups": (Group(name="a", lists=("none",)),)}, id="a list there is not"),
        pytest.param(
            {"groups": (Group(name="default", match=Match(names=("x",))),)}, id="half a default"
        ),
    ],
)
def test_a_policy_cannot_contradict_itself(parts: dict[str, tuple[Group, ...]]) -> None:
    with pytest.raises(ValueError, match=r"twice|not|everybody"):
        Policy(**parts)  # type: ignore[arg-type]


def test_settings_groups_and_lists_make_one_policy(tmp_path: Path) -> None:
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "lists.d").mkdir()
    (tmp_path / "policy.d" / "a.yaml").write_text(
        "groups:\n- name: shops\n  match: {name: shop}\n  web: {lists: [own], enabled: true}\n"
    )
    (tmp_path / "lists.d" / "a.yaml").write_text(
        "name: own\ntype: allowed\nentries: [www.ads.example/x*]\n"
    )
    (tmp_path / "lists.d" / "b.yaml").write_text(
        f"name: bad\ntype: hashes\nentries: [{'a' * 40} X]\n"
    )
    settings = parse(b"web: {enabled: false, unscanned: block, on_failure: closed}", "f")

    policy = load_policy(
        settings, groups=tmp_path / "policy.d", lists=tmp_path / "lists.d", generation=9
    )

    assert policy == Policy(
        generation=9,
        enabled=False,
        unscanned=Action.BLOCK,
        on_failure="closed",
        groups=(
            Group(
                name="shops",
                match=Match(names=("shop",)),
                unscanned=Action.BLOCK,
                on_failure="closed",
                lists=("own",),
            ),
        ),
        lists=(OWN,),
        hashes=(HashList(name="bad", entries=(("a" * 40, "X"),)),),
    )


def test_without_folders_the_policy_is_what_the_settings_say(tmp_path: Path) -> None:
    none = tmp_path / "none"

    assert load_policy(Config(), groups=none, lists=none) == Config().policy(0)


def test_a_group_cannot_use_a_list_of_hashes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: bad\ntype: hashes\nentries: []\n")
    groups = tmp_path / "policy.d"
    groups.mkdir()
    (groups / "a.yaml").write_text("groups:\n- name: a\n  web: {lists: [bad]}\n")

    with pytest.raises(ConfigError, match="no URL list 'bad'"):
        load_policy(Config(), groups=groups, lists=tmp_path)


def test_a_policy_survives_the_way_to_a_worker() -> None:
    policy = Policy(
        generation=3,
        unscanned=Action.BLOCK,
        groups=(STRICT, UNKNOWN),
        lists=(ADS, OWN),
        hashes=(HashList(name="bad", entries=(("a" * 32, "x"),)),),
    )

    told = Settings(
        policy=policy, max_body=1, origin_timeout=1, probe_cgroup=1, log_level="info"
    ).model_dump_json()
    arrived = Settings.model_validate_json(told).policy

    assert arrived == policy
    assert (
        ask(arrived, container=None)
        == ask(policy, container=None)
        == (
            "allow",
            "list:own",
            "unknown",
        )
    )
