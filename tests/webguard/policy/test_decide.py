"""Policy: every combination of facts and settings."""

from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.model import Action, Detection, Question, ScanResult, Stage, Unscanned
from webguard.policy.decide import Policy, decide

EICAR = Detection(engine="yara", name="Eicar", kind="test file")
BOMB = Unscanned(where="gzip", reason="it grows more than 250-fold")

FOUND = ScanResult(detections=(EICAR,))
CLEAN = ScanResult()
PARTLY = ScanResult(unscanned=(BOMB,))
FOUND_AND_PARTLY = ScanResult(detections=(EICAR,), unscanned=(BOMB,))


def expected(policy: Policy, question: Question) -> tuple[Action, str]:
    """The table of the module's docstring, written once more and differently."""
    scan = question.scan
    open_ = Action.ALLOW if policy.on_failure == "open" else Action.BLOCK
    if scan and scan.detections:
        return Action.BLOCK, "yara:Eicar"
    if question.upstream:
        return Action.BLOCK, "upstream"
    if question.failure:
        return open_, "web.on_failure"
    if (scan is None and question.stage is Stage.RESPONSE) or (scan and scan.unscanned):
        return policy.unscanned, "web.unscanned"
    return Action.ALLOW, "default"


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("scan", [None, CLEAN, PARTLY, FOUND, FOUND_AND_PARTLY])
def test_every_combination_of_facts_and_settings(stage: Stage, scan: ScanResult | None) -> None:
    settings = product((Action.ALLOW, Action.BLOCK), ("open", "closed"), ("", "broke"), ("", "bad"))
    for unscanned, on_failure, failure, upstream in settings:
        mode: Literal["open", "closed"] = "open" if on_failure == "open" else "closed"
        policy = Policy(generation=3, unscanned=unscanned, on_failure=mode)
        question = Question(
            stage=stage, subject="http://x/", scan=scan, failure=failure, upstream=upstream
        )

        verdict = decide(policy, question)

        assert (verdict.action, verdict.rule) == expected(policy, question)
        assert verdict.generation == 3
        assert verdict.reason


@pytest.mark.parametrize(
    ("question", "words"),
    [
        pytest.param(Question(stage=Stage.RESPONSE, subject="", scan=FOUND), "Eicar", id="name"),
        pytest.param(
            Question(stage=Stage.RESPONSE, subject="", scan=ScanResult(detections=(EICAR, EICAR))),
            "and 1 more",
            id="several",
        ),
        pytest.param(
            Question(stage=Stage.UPSTREAM, subject="", upstream="the certificate has expired"),
            "the certificate has expired",
            id="upstream",
        ),
        pytest.param(
            Question(stage=Stage.RESPONSE, subject="", scan=CLEAN, failure="the worker died"),
            "the worker died",
            id="failure",
        ),
        pytest.param(
            Question(stage=Stage.RESPONSE, subject="", scan=PARTLY), BOMB.reason, id="unscanned"
        ),
        pytest.param(
            Question(stage=Stage.RESPONSE, subject=""), "was not scanned", id="nobody looked"
        ),
    ],
)
def test_the_reason_says_what_happened(question: Question, words: str) -> None:
    assert words in decide(Policy(), question).reason


text = st.text(max_size=20)
detections = st.builds(Detection, engine=text, name=text, kind=text, member=text)
scans = st.builds(
    ScanResult,
    detections=st.lists(detections, max_size=3).map(tuple),
    unscanned=st.lists(st.builds(Unscanned, where=text, reason=text), max_size=3).map(tuple),
)
policies = st.builds(
    Policy,
    generation=st.integers(),
    unscanned=st.sampled_from([Action.ALLOW, Action.BLOCK]),
    on_failure=st.sampled_from(["open", "closed"]),
)
questions = st.builds(
    Question,
    stage=st.sampled_from(Stage),
    subject=text,
    scan=st.none() | scans,
    failure=text,
    upstream=text,
)


@given(policies, questions)
def test_nothing_with_a_detection_is_ever_allowed(policy: Policy, question: Question) -> None:
    verdict = decide(policy, question)

    assert verdict.action in (Action.ALLOW, Action.BLOCK)
    if question.scan and question.scan.detections:
        assert verdict.action is Action.BLOCK


@given(questions)
def test_a_strict_policy_allows_only_what_was_seen_whole(question: Question) -> None:
    verdict = decide(Policy(unscanned=Action.BLOCK, on_failure="closed"), question)

    if verdict.action is Action.ALLOW:
        assert not question.failure
        assert not question.upstream
        assert question.stage is not Stage.RESPONSE or question.scan is not None
        assert question.scan is None or question.scan == ScanResult()


@pytest.mark.parametrize("action", [Action.BYPASS, Action.HOLD, Action.RECORD])
def test_unscanned_content_is_allowed_or_blocked_and_nothing_else(action: Action) -> None:
    with pytest.raises(ValueError, match="allowed or blocked"):
        Policy(unscanned=action)


def test_on_failure_is_open_or_closed_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="open or closed"):
        Policy(on_failure="ajar")  # type: ignore[arg-type]
