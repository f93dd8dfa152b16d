"""One HTTP exchange: what is held, what passes, and when policy is asked.

Nothing here waits, reads a clock or touches a socket. `Exchange.take` is given
what happened and answers with what to do; scanning is an action that is answered
by an input, so a driver may be as synchronous or as asynchronous as it likes.

The rules:

- A message is held whole and scanned, and nothing of it passes before a verdict
  that allows it. Nothing else lets content pass: no input that is late, repeated
  or out of order does, and what is unknown is ignored.
- A body over the limit, and an answer without end, is not held but looked at in
  parts, each with the end of the one before. Policy is asked before the first
  byte passes, as about content that nobody looked at as a whole, and that is told
  then: its end may never come. An answer without end that policy does not let
  pass so is held like any other: it may have an end after all.
- Nothing passes before it was looked at, in parts too; so what is refused then
  never comes to its end. It is looked at as it comes, for it may come slowly.
- The request's address is judged when its head announces a body, and again with
  the whole request: a body may be streamed long before it ends.
- An exchange has one outcome; after it, no input has an effect. While policy is
  asked it is `BROKEN`, so a policy that raises lets nothing more pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from webguard import model
from webguard.inspection import heads
from webguard.inspection.values import (
    Abort,
    Action,
    Body,
    Bypass,
    End,
    Failed,
    Forward,
    Head,
    Hold,
    Input,
    Missed,
    Outcome,
    Replace,
    RequestHead,
    ResponseHead,
    Scan,
    Scanned,
    Side,
    Tell,
    Upgraded,
)
from webguard.model import (
    ENGINE,
    Container,
    Question,
    ScanResult,
    Stage,
    Unscanned,
    Verdict,
)
from webguard.ports import Decide

STREAMED = (
    "larger than web.max_body, or a stream without end:"
    " looked at in parts, not decoded and not as a whole"
)
MISSED = "it went past us unseen"
PARTIAL = "a part of it only (206 Partial Content)"
STEP = 256 * 1024  # of a body that streams is new in one part, at most
OVERLAP = 64 * 1024  # of it is looked at with the next part once more
_REMEDY = "raise web.max_body, or set web.unscanned: allow"
_STAGES = {Side.REQUEST: Stage.REQUEST, Side.RESPONSE: Stage.RESPONSE}


class _State(Enum):
    AWAITED = 0  # its head has not come
    HELD = 1
    SCANNED = 2  # is being, that is: all of it has come
    STREAMED = 3
    DONE = 4


@dataclass(slots=True)
class _Message:
    """One of the two messages, as far as it has come."""

    side: Side
    state: _State = _State.AWAITED
    head: Head | None = None
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    missed: bool = False
    end: End | None = None
    passing: bool = False  # its head has passed
    part: bytes = b""  # being looked at
    seen: bytes = b""  # the end of what was
    failed: bool = False  # looking at a part has failed, which was told

    def next_part(self) -> bytes:
        """Give up what is to be looked at next; the rest is held."""
        count = size = 0
        for each in self.pieces:
            if size + len(each) > STEP:
                break
            count, size = count + 1, size + len(each)
        taken, self.pieces = self.pieces[:count], self.pieces[count:]
        return b"".join(taken)

    def pass_head(self) -> list[Action]:
        """Give up the head, once."""
        if self.passing or self.head is None:
            return []
        self.passing = True
        return [Forward(what=self.head)]

    def pass_on(self) -> list[Action]:
        """Give up all that is held."""
        held = [Body(side=self.side, data=each) for each in self.pieces]
        self.pieces = []
        rest = [Forward(what=each) for each in (*held, self.end) if each is not None]
        return [*self.pass_head(), *rest]


class Exchange:
    """What to do with one exchange of which `subject` is the address, as policy is asked."""

    def __init__(
        self, *, subject: str, container: Container | None, decide: Decide, limit: int
    ) -> None:
        self.limit = limit  # of what is held of each body, in bytes
        self.outcome: Outcome | None = None
        self._subject = subject
        self._container = container
        self._decide = decide
        self._request = _Message(Side.REQUEST)
        self._response = _Message(Side.RESPONSE)
        self._method = ""
        self._tickets = {Side.REQUEST: 0, Side.RESPONSE: 0}
        self._last_ticket = 0

    def awaits(self, side: Side) -> bool:
        """Return whether this message's head has not been given yet."""
        return self._of(side).state is _State.AWAITED

    def take(self, given: Input) -> list[Action]:
        """Return what to do after what happened. Raises what policy raises, and nothing else."""
        if self.outcome is not None:
            return []
        done: list[Action] = _TAKE[type(given)](self, given)
        self._settle()
        return done

    def _settle(self) -> None:
        if {self._request.state, self._response.state} == {_State.DONE}:
            self.outcome = Outcome.DELIVERED
        if self.outcome is not None:
            for each in (self._request, self._response):
                each.pieces, each.part, each.seen = [], b"", b""

    def _of(self, side: Side) -> _Message:
        return self._request if side is Side.REQUEST else self._response

    def _request_head(self, head: RequestHead) -> list[Action]:
        message = self._request
        if message.state is not _State.AWAITED:
            return []
        message.head, message.state, self._method = head, _State.HELD, head.method
        if not heads.announces_body(head):
            return [Hold(side=Side.REQUEST)]
        verdict = self._ask(Side.REQUEST, ScanResult())
        if verdict.action is not model.Action.ALLOW:
            return self._refuse(message, ScanResult(), verdict)
        if (heads.length(head, head.method) or 0) > self.limit:
            return self._outgrown(message)
        return [Hold(side=Side.REQUEST)]

    def _response_head(self, head: ResponseHead) -> list[Action]:
        message = self._response
        if message.state is not _State.AWAITED or self._request.state is _State.AWAITED:
            return []
        message.head, message.state = head, _State.HELD
        if (heads.length(head, self._method) or 0) > self.limit:
            return self._outgrown(message)
        if heads.endless(head, self._method):
            verdict = self._ask(Side.RESPONSE, unseen(STREAMED))
            if verdict.action is model.Action.ALLOW:
                return self._stream(message, verdict)
        return [Hold(side=Side.RESPONSE)]

    def _body(self, given: Body) -> list[Action]:
        message = self._of(given.side)
        if message.state not in (_State.HELD, _State.STREAMED) or message.end is not None:
            return []
        if message.state is _State.STREAMED:
            message.pieces += _parts(given.data)
            return self._advance(message)
        message.pieces += [given.data] if given.data else []
        message.size += len(given.data)
        return self._outgrown(message) if message.size > self.limit else [Hold(side=given.side)]

    def _missed(self, given: Missed) -> list[Action]:
        self._of(given.side).missed = True
        return []

    def _end(self, given: End) -> list[Action]:
        message = self._of(given.side)
        if message.state not in (_State.HELD, _State.STREAMED) or message.end is not None:
            return []
        message.end = given
        if message.state is _State.STREAMED:
            return self._advance(message)
        if message.missed:
            return self._judge(message, unseen(MISSED))
        if message.side is Side.REQUEST and not message.size:
            # Without a body, too: policy may have a word on the address.
            return self._judge(message, ScanResult())
        message.state = _State.SCANNED
        content = b"".join(message.pieces)
        message.pieces = [content] if content else []
        encoded = heads.codings(message.head) if message.head else ""
        ticket = self._ticket(message)
        return [Scan(ticket=ticket, side=message.side, content=content, codings=encoded)]

    def _ticket(self, message: _Message) -> int:
        self._last_ticket += 1
        self._tickets[message.side] = self._last_ticket
        return self._last_ticket

    def _scanned(self, given: Scanned) -> list[Action]:
        for message in (self._request, self._response):
            if self._tickets[message.side] != given.ticket:
                continue
            if message.state is _State.SCANNED:
                return self._judge(message, given.result)
            if message.part:
                return self._seen(message, given.result)
        return []

    def _upgraded(self, _given: Upgraded) -> list[Action]:
        head = self._response.head
        if self._response.state is not _State.HELD or not isinstance(head, ResponseHead):
            return []
        if head.status != 101:
            return []
        self.outcome = Outcome.BYPASSED
        return [Bypass()]

    def _failed(self, _given: Failed) -> list[Action]:
        self.outcome = Outcome.BROKEN
        return []

    def _judge(self, message: _Message, scan: ScanResult) -> list[Action]:
        """Ask policy about a message that is held whole."""
        if message.head is not None and heads.partial(message.head):
            # Cut in two, no half of a signature matches.
            part = Unscanned(where="body", reason=PARTIAL)
            scan = replace(scan, unscanned=(*scan.unscanned, part))
        verdict = self._ask(message.side, scan)
        if verdict.action is not model.Action.ALLOW:
            return self._refuse(message, scan, verdict)
        message.state = _State.DONE
        if message.side is Side.REQUEST and not scan.unscanned:
            return message.pass_on()  # a clean upload is told by its response's event
        return [self._tell(message, scan, verdict), *message.pass_on()]

    def _outgrown(self, message: _Message) -> list[Action]:
        """Ask policy about a body that is too large to be held."""
        scan = unseen(STREAMED)
        verdict = self._ask(message.side, scan)
        if verdict.action is model.Action.ALLOW:
            return self._stream(message, verdict)
        status = 413 if message.side is Side.REQUEST else 403
        return self._refuse(message, scan, verdict, status=status, remedy=_REMEDY)

    def _stream(self, message: _Message, verdict: Verdict) -> list[Action]:
        message.state = _State.STREAMED
        message.pieces = [part for each in message.pieces for part in _parts(each)]
        # With something held the head waits for a look at that: it may be a page yet.
        head = [] if message.pieces else message.pass_head()
        return [
            self._tell(message, unseen(STREAMED), verdict),
            *head,
            *(self._advance(message) if message.pieces else []),
        ]

    def _advance(self, message: _Message) -> list[Action]:
        """Have the next part of a body that streams looked at, if there is one."""
        if message.part:
            return [Hold(side=message.side)]
        if message.pieces:
            message.part = message.next_part()
            content = message.seen + message.part
            ticket = self._ticket(message)
            return [Scan(ticket=ticket, side=message.side, content=content, part=True)]
        if message.end is not None:
            message.state = _State.DONE
            return message.pass_on()
        return [Hold(side=message.side)]

    def _seen(self, message: _Message, result: ScanResult) -> list[Action]:
        """Let a part pass that was looked at, unless something is in it."""
        told: list[Action] = []
        failed = any(each.where == ENGINE for each in result.unscanned)
        if result.detections or failed:
            scan = replace(result, unscanned=(*result.unscanned, *unseen(STREAMED).unscanned))
            verdict = self._ask(message.side, scan)
            if verdict.action is not model.Action.ALLOW:
                return self._refuse(message, scan, verdict)
            told = [] if message.failed else [self._tell(message, scan, verdict)]
            message.failed = True
        passing = Body(side=message.side, data=message.part)
        message.seen, message.part = (message.seen + message.part)[-OVERLAP:], b""
        head = message.pass_head()
        return [*told, *head, Forward(what=passing), *self._advance(message)]

    def _refuse(
        self,
        message: _Message,
        scan: ScanResult,
        verdict: Verdict,
        *,
        status: int = 403,
        remedy: str = "",
    ) -> list[Action]:
        told = self._tell(message, scan, verdict, remedy)
        if self._response.passing:
            self.outcome = Outcome.ABORTED
            return [told, Abort(verdict=verdict)]
        self.outcome = Outcome.REPLACED
        return [told, Replace(verdict=verdict, status=status)]

    def _tell(
        self, message: _Message, scan: ScanResult, verdict: Verdict, remedy: str = ""
    ) -> Tell:
        head = message.head
        return Tell(
            side=message.side,
            scan=scan,
            verdict=verdict,
            status=head.status if isinstance(head, ResponseHead) else 0,
            remedy=remedy,
            partly=message.passing,
        )

    def _ask(self, side: Side, scan: ScanResult) -> Verdict:
        self.outcome = Outcome.BROKEN  # the refusal first: policy may raise
        failure = next((each.reason for each in scan.unscanned if each.where == ENGINE), "")
        verdict = self._decide(
            Question(
                stage=_STAGES[side],
                subject=self._subject,
                container=self._container,
                scan=scan,
                failure=failure,
            )
        )
        self.outcome = None
        return verdict


_TAKE: dict[type, Callable[[Exchange, Any], list[Action]]] = {
    RequestHead: Exchange._request_head,
    ResponseHead: Exchange._response_head,
    Body: Exchange._body,
    Missed: Exchange._missed,
    End: Exchange._end,
    Scanned: Exchange._scanned,
    Upgraded: Exchange._upgraded,
    Failed: Exchange._failed,
}


def _parts(data: bytes) -> list[bytes]:
    return [data[at : at + STEP] for at in range(0, len(data), STEP)]


def unseen(reason: str) -> ScanResult:
    """Return the result of a body that nobody looked at."""
    return ScanResult(unscanned=(Unscanned(where="body", reason=reason),))
