"""What a message's head says about its body. Pure; nothing in a head makes it raise.

A driver has refused what is not valid HTTP before. Where a head still leaves a
choice, the answer here is the one under which more is held and looked at.
"""

import re

from webguard.inspection.values import Fields, Head, RequestHead, ResponseHead

# These are answers without end by design: holding them back would hang the client.
_ENDLESS = re.compile(
    r"\s*(text/event-stream|application/grpc([+-][\w.+-]+)?)\s*(;|$)", re.IGNORECASE
)
_WHOLE = re.compile(r"bytes 0-([0-9]+)/([0-9]+)")
_NUMBER = re.compile(r"[0-9]+")
_DIGITS = 18  # more than any length has; int() of millions of them takes seconds


def get(fields: Fields, name: str) -> str:
    """Return the values of all fields of this name (in lower case) as one, "" for none."""
    return ", ".join(value for each, value in fields if each.lower() == name)


def length(head: Head, method: str) -> int | None:
    """Return how long the body is that follows, None if it does not say."""
    if isinstance(head, ResponseHead) and (
        method.upper() == "HEAD" or head.status in (204, 304) or 100 <= head.status < 200
    ):
        return 0
    if get(head.fields, "transfer-encoding"):
        return None
    said = get(head.fields, "content-length").strip()
    if _NUMBER.fullmatch(said):
        return int(said[: _DIGITS + 1])
    return None


def announces_body(head: RequestHead) -> bool:
    """Return whether a body is to follow, as far as the head says.

    A gRPC client's may go on for as long as the answer, and needs no length.
    """
    if not head.framed and head.method.upper() not in ("GET", "HEAD"):
        return True
    said = get(head.fields, "content-length") or "0"
    return said != "0" or bool(get(head.fields, "transfer-encoding"))


def endless(head: ResponseHead, method: str) -> bool:
    """Return whether this answer comes without end: then it has no length, and it has a body."""
    kind = get(head.fields, "content-type")
    return (
        _ENDLESS.match(kind) is not None
        and not get(head.fields, "content-length")
        and length(head, method) is None
    )


def partial(head: Head) -> bool:
    """Return whether the body is a part of something only."""
    if not isinstance(head, ResponseHead) or head.status != 206:
        return False
    whole = _WHOLE.fullmatch(get(head.fields, "content-range").strip())
    return whole is None or int(whole[1][:_DIGITS]) + 1 != int(whole[2][:_DIGITS])


def codings(head: Head) -> str:
    """Return how the body is encoded, outermost last.

    Drivers undo `chunked` only; some clients undo the other transfer codings too.
    """
    transfer = get(head.fields, "transfer-encoding").split(",")
    outer = [each for each in transfer if each.strip().lower() not in ("", "chunked", "identity")]
    inner = get(head.fields, "content-encoding")
    return ",".join([inner, *outer] if inner else outer)
