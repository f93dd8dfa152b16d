"""What holds for every exchange, also for those that no end would dare."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tests.webguard.inspection.inputs import ADDRESS, EVIL, LIMIT, look_at, run
from webguard.inspection.exchange import Exchange
from webguard.inspection.values import (
    Abort,
    Action,
    Body,
    End,
    Failed,
    Fields,
    Forward,
    Input,
    Missed,
    Outcome,
    Replace,
    RequestHead,
    ResponseHead,
    Scanned,
    Side,
    Upgraded,
)
from webguard.model import Action as Judged
from webguard.model import Question, ScanResult, Stage, Verdict

_NAMES = ("Content-Length", "Transfer-Encoding", "Content-Type", "Content-Range", "X")
_VALUES = ("0", "4", str(LIMIT * 9), "chunked", "gzip, chunked", "text/event-stream", "٣", "")

sides = st.sampled_from(Side)
fields: st.SearchStrategy[Fields] = st.lists(
    st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES) | st.text(max_size=20)), max_size=3
).map(tuple)
pieces = st.sampled_from((b"", b"x", EVIL, b"x" * (LIMIT + 1)))
request_heads = st.builds(RequestHead, method=st.sampled_from(("GET", "HEAD", "P")), fields=fields)
response_heads = st.builds(
    ResponseHead, status=st.sampled_from((101, 200, 204, 206, 500)), fields=fields
)
inputs: st.SearchStrategy[Input] = st.one_of(
    request_heads,
    response_heads,
    st.builds(Body, side=sides, data=pieces),
    st.builds(Missed, side=sides),
    st.builds(End, side=sides),
    st.builds(Scanned, ticket=st.integers(0, 3), result=pieces.map(look_at)),
    st.just(Upgraded()),
    st.just(Failed()),
)


@st.composite
def whole(draw: st.DrawFn) -> list[Input]:
    """An exchange as two well-behaved ends make it."""
    request = [draw(request_heads), *draw(_bodies(Side.REQUEST)), End(side=Side.REQUEST)]
    return [
        *request,
        draw(response_heads),
        *draw(_bodies(Side.RESPONSE)),
        draw(st.just(End(side=Side.RESPONSE)) | st.just(Failed())),
    ]


def _bodies(side: Side) -> st.SearchStrategy[list[Input]]:
    return st.lists(st.builds(Body, side=st.just(side), data=pieces), max_size=3)


type Decide = Callable[[Question], Judged]


class Watched:
    """An exchange, with what policy said last of each message."""

    def __init__(self, decide: Decide) -> None:
        self.said: dict[Stage, Judged] = {}
        self._how = decide
        self.exchange = Exchange(subject=ADDRESS, container=None, decide=self._decide, limit=LIMIT)

    def _decide(self, question: Question) -> Verdict:
        self.said[question.stage] = self._how(question)
        return Verdict(action=self.said[question.stage], reason="so", rule="test")


def _of(each: Forward) -> Side:
    if isinstance(each.what, Body | End):
        return each.what.side
    return Side.REQUEST if isinstance(each.what, RequestHead) else Side.RESPONSE


def _passed(done: list[Action], side: Side) -> bytes:
    bodies = (each.what for each in done if isinstance(each, Forward))
    return b"".join(each.data for each in bodies if isinstance(each, Body) and each.side is side)


@given(st.lists(inputs, max_size=14), st.data())
def test_no_order_of_inputs_raises_and_nothing_comes_after_the_outcome(
    given_: list[Input], data: st.DataObject
) -> None:
    watched = Watched(lambda _question: data.draw(st.sampled_from(Judged)))
    ended = False
    for each in given_:
        before = watched.exchange.outcome
        done = run(watched.exchange, each)
        assert not (ended and done)
        assert before in (None, watched.exchange.outcome)
        ends = [action for action in done if isinstance(action, Replace | Abort)]
        assert len(ends) <= 1
        assert done[-1:] == ends or not ends, "nothing is forwarded after a refusal"
        ended = watched.exchange.outcome is not None
        for action in done:
            if isinstance(action, Forward):
                assert watched.said[Stage(_of(action))] is Judged.ALLOW


@given(st.lists(inputs, max_size=14))
def test_nothing_passes_a_policy_that_allows_nothing(given_: list[Input]) -> None:
    watched = Watched(lambda _question: Judged.BLOCK)
    assert not [each for each in run(watched.exchange, *given_) if isinstance(each, Forward)]


@given(st.lists(inputs, max_size=14), sides)
def test_of_what_may_not_pass_unscanned_nothing_passes_before_all_of_it_was(
    given_: list[Input], side: Side
) -> None:
    """A policy that wants to see everything, and has seen malware in nothing that passed."""

    def strict(question: Question) -> Judged:
        scan = question.scan or ScanResult()
        return Judged.BLOCK if scan.detections or scan.unscanned else Judged.ALLOW

    watched = Watched(strict)
    before = b""
    for each in given_:
        done = [] if isinstance(each, Scanned) else run(watched.exchange, each)
        passed = _passed(done, side)
        assert EVIL not in before + passed
        assert not passed or End(side=side) in [
            action.what for action in done if isinstance(action, Forward)
        ], "the last byte passes with the first: after the verdict on the whole"
        before += passed


@given(whole(), st.sampled_from(Judged))
def test_every_exchange_ends_in_one_outcome_and_delivers_what_came(
    given_: list[Input], judged: Judged
) -> None:
    watched = Watched(lambda _question: judged)
    done = run(watched.exchange, *given_)
    outcome = watched.exchange.outcome
    assert outcome is not None
    assert (outcome is Outcome.REPLACED) is any(isinstance(each, Replace) for each in done)
    if outcome is Outcome.DELIVERED:
        for side in Side:
            sent = (each for each in given_ if isinstance(each, Body) and each.side is side)
            assert _passed(done, side) == b"".join(each.data for each in sent)
