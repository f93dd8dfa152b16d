"""What is held, what passes and when policy is asked, by the corpus and beyond it."""

import pytest

from tests.webguard.inspection.corpus import CASES, Case
from tests.webguard.inspection.inputs import (
    ADDRESS,
    CLEAN,
    EVIL,
    LIMIT,
    body,
    end,
    get,
    inspected,
    ok,
    post,
    run,
    words,
)
from webguard.inspection.exchange import OVERLAP, STEP, Exchange
from webguard.inspection.values import (
    Abort,
    Action,
    Failed,
    Forward,
    Input,
    Missed,
    Outcome,
    RequestHead,
    ResponseHead,
    Scan,
    Scanned,
    Side,
    Tell,
)
from webguard.model import ENGINE, Question, ScanResult, Stage, Unscanned, Verdict
from webguard.model import Action as Judged
from webguard.policy.decide import Policy, decide
from webguard.policy.groups import OnFailure

REQUEST, RESPONSE = Side.REQUEST, Side.RESPONSE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_corpus(case: Case) -> None:
    assert tuple(map(words, run(inspected(case.policy), *case.given))) == case.done


def asked(*given: Input, policy: Policy | None = None) -> tuple[list[Question], list[Action]]:
    questions: list[Question] = []

    def judge(question: Question) -> Verdict:
        questions.append(question)
        return decide(policy or Policy(), question)

    exchange = Exchange(subject=ADDRESS, container=None, decide=judge, limit=10)
    return questions, run(exchange, *given)


def test_policy_is_asked_about_the_address_before_a_body_comes() -> None:
    questions, _ = asked(post(b"mine"))
    assert [(each.stage, each.subject) for each in questions] == [(Stage.REQUEST, ADDRESS)]


def test_a_request_that_streams_is_asked_about_twice_before_its_first_byte_passes() -> None:
    questions, done = asked(post(b"more than ten bytes"))
    assert [bool(each.scan and each.scan.unscanned) for each in questions] == [False, True]
    assert [words(each) for each in done] == ["tell request allow: web.unscanned", "request head"]


def test_nothing_passes_while_a_scan_is_not_answered_and_a_wrong_ticket_answers_none() -> None:
    exchange = inspected(Policy())
    run(exchange, get(), end(REQUEST))
    for each in (ok(b"fine"), body(RESPONSE, b"fine")):
        exchange.take(each)
    (wanted,) = exchange.take(end(RESPONSE))
    assert isinstance(wanted, Scan)
    assert exchange.take(Scanned(ticket=wanted.ticket + 1, result=CLEAN)) == []
    assert exchange.take(body(RESPONSE, b"more")) == []
    assert exchange.outcome is None
    assert exchange.take(Scanned(ticket=wanted.ticket, result=CLEAN)) != []
    assert exchange.outcome is Outcome.DELIVERED


def test_a_body_of_which_something_was_missed_is_not_called_clean() -> None:
    exchange = inspected(Policy(unscanned=Judged.BLOCK))
    given = (get(), end(REQUEST), ok(b"fine"), Missed(side=RESPONSE), end(RESPONSE))
    assert words(run(exchange, *given)[-1]) == "replace 403"


def test_what_is_refused_after_the_answer_has_begun_is_aborted_and_not_ended() -> None:
    exchange = inspected(Policy())
    early = (RequestHead(method="POST", fields=(("Content-Length", "12"),)), ok(b"early"))
    run(exchange, *early, body(RESPONSE, b"early"), end(RESPONSE))
    done = run(exchange, body(REQUEST, EVIL), end(REQUEST))
    assert [words(each) for each in done][-2:] == ["tell request block: test:Evil", "abort"]
    assert exchange.outcome is Outcome.ABORTED


def test_a_policy_that_raises_lets_nothing_pass_ever_after() -> None:
    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    exchange = Exchange(subject=ADDRESS, container=None, decide=broken, limit=10)
    exchange.take(get())
    with pytest.raises(ZeroDivisionError):
        exchange.take(end(REQUEST))
    assert exchange.outcome is Outcome.BROKEN
    assert run(exchange, end(REQUEST), ok(b""), end(RESPONSE)) == []


def test_the_record_has_the_origins_status_and_what_to_do_about_the_limit() -> None:
    strict = Policy(unscanned=Judged.BLOCK)
    _, done = asked(get(), end(REQUEST), ok(b"more than ten bytes"), policy=strict)
    (told,) = (each for each in done if isinstance(each, Tell))
    assert told.status == 200
    assert "web.max_body" in told.remedy


def test_an_exchange_that_broke_off_keeps_nothing_in_memory() -> None:
    exchange = inspected(Policy())
    run(exchange, get(), end(REQUEST), ok(b"four"), body(RESPONSE, b"fo"), Failed())
    assert exchange.outcome is Outcome.BROKEN
    assert exchange.take(end(RESPONSE)) == []


def streaming() -> Exchange:
    exchange = inspected(Policy())
    run(exchange, get(), end(REQUEST), ok(b"x" * LIMIT * 9))
    return exchange


def test_a_signature_that_is_cut_in_two_is_found_where_the_parts_meet() -> None:
    exchange = streaming()
    first = run(exchange, body(RESPONSE, b"x" * OVERLAP + EVIL[:6]))
    then = run(exchange, body(RESPONSE, EVIL[6:] + b"x"), body(RESPONSE, b"x"), end(RESPONSE))
    assert words(first[-2]) == f"response body {OVERLAP + 6}"
    assert [words(each) for each in then][1:] == ["tell response block: test:Evil", "abort"]
    (told,) = (each for each in then if isinstance(each, Tell))
    assert (told.partly, told.status) == (True, 200)
    assert exchange.outcome is Outcome.ABORTED


def test_parts_are_bounded_and_overlap_and_nothing_is_left_out() -> None:
    exchange, data = streaming(), bytes(range(256)) * (STEP // 100)
    done = run(exchange, body(RESPONSE, data), end(RESPONSE))
    parts = [each.content for each in done if isinstance(each, Scan)]
    assert max(map(len, parts)) <= STEP + OVERLAP
    assert len(parts) > 2
    assert parts[0] + b"".join(each[OVERLAP:] for each in parts[1:]) == data
    assert exchange.outcome is Outcome.DELIVERED


def test_what_comes_while_a_part_is_looked_at_waits_for_its_turn() -> None:
    exchange = streaming()
    (first,) = exchange.take(body(RESPONSE, b"one"))
    assert isinstance(first, Scan)
    for each in (body(RESPONSE, b"two"), end(RESPONSE), body(RESPONSE, b"after the end")):
        assert not any(isinstance(action, Forward) for action in exchange.take(each))
    passed = exchange.take(Scanned(ticket=first.ticket, result=CLEAN))
    assert [words(each) for each in passed] == ["response body 3", "scan response"]


@pytest.mark.parametrize(("on_failure", "delivered"), [("open", True), ("closed", False)])
def test_a_part_that_could_not_be_looked_at_follows_on_failure_and_is_told_once(
    on_failure: OnFailure, delivered: bool
) -> None:
    exchange = inspected(Policy(on_failure=on_failure))
    run(exchange, get(), end(REQUEST), ok(b"x" * LIMIT * 9))
    failed = ScanResult(unscanned=(Unscanned(where=ENGINE, reason="it died"),))
    done: list[Action] = []
    for _ in range(3):
        for wanted in exchange.take(body(RESPONSE, b"x")):
            if isinstance(wanted, Scan):
                done += exchange.take(Scanned(ticket=wanted.ticket, result=failed))
    assert len([each for each in done if isinstance(each, Tell)]) == 1
    assert any(isinstance(each, Forward) for each in done) is delivered
    assert any(isinstance(each, Abort) for each in done) is not delivered


@pytest.mark.parametrize(
    ("head", "method", "held"),
    [
        pytest.param((("Content-Length", "99"),), "GET", False, id="a length over the limit"),
        pytest.param((("Content-Length", "99"),), "HEAD", True, id="the length of no body"),
        pytest.param((("Content-Type", "text/event-stream"),), "GET", False, id="no end"),
        pytest.param((("Content-Type", "text/event-stream"),), "HEAD", True, id="no body"),
        pytest.param(
            (("Content-Type", "text/event-stream"), ("Content-Length", "4")),
            "GET",
            True,
            id="a stream with its length",
        ),
        pytest.param((("content-type", " application/GRPC+proto ; x"),), "GET", False, id="gRPC"),
        pytest.param((("Content-Type", "application/grpcish"),), "GET", True, id="no gRPC"),
        pytest.param((("Content-Length", "9" * 10_000),), "GET", False, id="beyond all numbers"),
        pytest.param((("Content-Length", "4, 4"),), "GET", True, id="two lengths"),
    ],
)
def test_what_a_head_says_decides_what_is_held(
    head: tuple[tuple[str, str], ...], method: str, held: bool
) -> None:
    response = ResponseHead(status=200, fields=head)
    _, done = asked(RequestHead(method=method), end(REQUEST), response)
    assert (words(done[-1]) == "hold response") is held
