"""Read an event back from its documented record, the object that `lines.as_object` makes."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from webguard.model import Event, Severity

_EVENT = TypeAdapter(Event)
_SURROGATE = re.compile("[\ud800-\udfff]")


def as_event(whole: Mapping[str, Any]) -> Event:
    """Return the event of a record. Keys of a later version are ignored.

    Raises `ValueError` for what is no record of ours.
    """
    try:
        severity = Severity[str(whole.get("severity", "informational")).upper()]
        return _EVENT.validate_python({**whole, "severity": severity})
    except (KeyError, ValidationError) as error:
        raise ValueError(f"not an event: {error}") from error


def valid(text: str, escape: str = "\\") -> str:
    r"""Return `text` with what is not Unicode written as `\x80` (a raw byte) or `\ud800`.

    `escape` is how the medium writes a backslash.
    """
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda found: escape + _digits(ord(found[0])), text)


def _digits(code: int) -> str:
    # U+DC80 to U+DCFF are bytes that were not UTF-8, by "surrogateescape" (PEP 383).
    return f"x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"u{code:04x}"
