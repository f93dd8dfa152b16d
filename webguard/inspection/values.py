"""What an exchange is told, and what it answers. Values, and nothing that acts.

A driver turns what it reads from its sockets into inputs, in the order in which
it happened, and does what the actions say, in the order in which they are given.
Of content it lets pass what a `Forward` holds, and nothing else.
"""

from dataclasses import dataclass
from enum import StrEnum

from webguard.model import ScanResult, Verdict

type Fields = tuple[tuple[str, str], ...]


class Side(StrEnum):
    """Which of an exchange's two messages."""

    REQUEST = "request"
    RESPONSE = "response"


class Outcome(StrEnum):
    """How an exchange ended. It has one, and keeps it."""

    DELIVERED = "delivered"  # both messages to their ends
    REPLACED = "replaced"  # the client gets a page of ours, and nothing of the server's
    ABORTED = "aborted"  # refused after a part was delivered: never ended cleanly
    BYPASSED = "bypassed"  # it is no HTTP from here on
    BROKEN = "broken"  # an end, or a bug of ours, broke it off


# Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """The request's line and fields. Its body and its `End` follow, or its `End` alone."""

    method: str
    fields: Fields = ()
    framed: bool = True
    """Whether a body needs a field that announces it: so it is in HTTP/1, and not in HTTP/2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The final answer's status and fields (interim ones are not told)."""

    status: int
    fields: Fields = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A piece of a body, without its framing, still encoded."""

    side: Side
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A part of a body that the driver cannot show."""

    side: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A message is complete."""

    side: Side
    trailers: Fields = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """The answer to a `Scan`."""

    ticket: int
    result: ScanResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """The 101 that was told as the response's head may be followed by another protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An end is gone, or broke the rules: nothing more will come."""


type Head = RequestHead | ResponseHead
type Input = Head | Body | Missed | End | Scanned | Upgraded | Failed


# Actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Nothing of this message may pass yet."""

    side: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Let this pass. What was held before it is in `Forward`s of its own."""

    what: Head | Body | End


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Scan this, and come back with a `Scanned` of the same ticket.

    A `part` is a window of a body that streams: it is looked at as it stands.
    """

    ticket: int
    side: Side
    content: bytes
    codings: str = ""  # as of Content-Encoding, outermost last
    part: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Record this verdict."""

    side: Side
    scan: ScanResult
    verdict: Verdict
    status: int  # the origin's, 0 if it has not answered
    remedy: str = ""
    partly: bool = False  # a part of it has passed before


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Answer with a page of ours; nothing of the server's answer has passed."""

    verdict: Verdict
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Break the connection off, so that nobody takes what was delivered for the whole."""

    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """Pass the answer's head on; what follows is no HTTP."""


type Action = Hold | Forward | Scan | Tell | Replace | Abort | Bypass
