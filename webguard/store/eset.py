r"""Events as the vendor's log lines, so that programs that read those go on working.

`eset12` and `eset13` are the lines of versions 12.0 and 13.2 of ESET Server
Security for Linux, as its manual shows them; docs/operate.md holds our reading
of the columns, which the manual does not name.

One event is one line and one CSV record, whatever a container wrote: commas and
quotes are quoted (RFC 4180); line breaks, other control characters, what
reverses the direction of text and what is no Unicode become `\n`, `\x1b`,
`\u202e`. A backslash stays one, so `\n` may also have been written like that:
the exact text is in the JSON record. A text that a spreadsheet takes for a
formula ("=1+1") is not altered; import the columns as text.
"""

import csv
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from webguard.model import Action, Container, Event, Severity
from webguard.store.parse import valid

# The sample of 13.2 has "Error" for what the one of 12.0 calls 1; the others are its neighbours.
_WORDS = {
    Severity.INFORMATIONAL: ("3", "Information"),
    Severity.LOW: ("2", "Warning"),
    Severity.MEDIUM: ("2", "Warning"),
    Severity.HIGH: ("1", "Error"),
    Severity.CRITICAL: ("0", "Critical"),
}

# Everything that some reader takes for the end of a line (str.splitlines has them all), that a
# terminal obeys, or that shows text in another order than it is in.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A day inside what datetime can tell, because of time zones.
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)


def eset12(event: Event, zone: tzinfo | None = None) -> str:
    """Return the event as a line of version 12: 12 columns, time of `zone` (None: this machine)."""
    number, _ = _WORDS[event.severity]
    when = _when(event.at, zone)
    columns = _columns(event)
    return _line([when.strftime("%d.%m.%Y %H:%M:%S"), number, *columns])


def eset13(event: Event, zone: tzinfo | None = None) -> str:
    """Return the event as a line of version 13: 13 columns, the eleventh always empty."""
    _, word = _WORDS[event.severity]
    when = _when(event.at, zone)
    # Not %p: the words are the vendor's, not this machine's language's.
    half = "AM" if when.hour < 12 else "PM"
    columns = _columns(event)
    return _line(
        [when.strftime("%m/%d/%Y %I:%M:%S ") + half, word, *columns[:-2], "", *columns[-2:]]
    )


def _columns(event: Event) -> list[str]:
    """Return what both have in common: all columns but time and severity."""
    found = event.scan.detections[0] if event.scan and event.scan.detections else None
    return [
        _scanner(event.kind),
        event.http.url if event.http and event.http.url else event.subject,
        found.name if found else "",
        found.kind.capitalize() if found else "",
        _action(event),
        str(event.process.uid) if event.process and event.process.uid >= 0 else "",
        event.process.exe if event.process else "",
        _circumstances(event),
        event.scan.sha256.upper() if event.scan else "",
        f"@NAME={_part(found.name)}@TYPE={_part(found.kind)}@SUSP=inf" if found else "",
    ]


def _scanner(kind: str) -> str:
    family = kind.partition(".")[0]
    return "Web access protection" if family in ("web", "tls") else "Webguard"


def _action(event: Event) -> str:
    if event.verdict is None:
        return event.outcome
    match event.verdict.action:
        case Action.BLOCK:
            return "Blocked"
        case Action.ALLOW | Action.RECORD if event.scan and event.scan.detections:
            return "Retained"
        case Action.ALLOW | Action.RECORD:
            return "Allowed"
        case Action.BYPASS:
            return "Not scanned"
        case Action.HOLD:
            return "Held"


def _circumstances(event: Event) -> str:
    """Say why, and in which container: the vendor has no column for either."""
    said = [event.verdict.reason] if event.verdict else []
    if event.verdict is None and event.remedy:
        said.append(event.remedy)
    if event.container:
        said.append(_container(event.container))
    return "; ".join(said)


def _container(container: Container) -> str:
    # As the object URI of a file in a container is written in 13.2.
    return f"{container.runtime}://{container.image}@{container.id}"


def _part(text: str) -> str:
    # "@" begins the next part.
    return text.replace("@", "\\x40")


def _when(at: int, zone: tzinfo | None) -> datetime:
    # An event's time may be any number: a worker that was taken over made it.
    latest = int((_LATEST - _EPOCH).total_seconds())
    return (_EPOCH + timedelta(seconds=min(max(at // 1_000_000_000, 0), latest))).astimezone(zone)


def _line(columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([_plain(each) for each in columns])
    return buffer.getvalue()


def _plain(text: str) -> str:
    return _UNSAFE.sub(_escaped, valid(text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
