"""The vendor's lines: the columns, and that no text of a container makes a second record."""

import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.model import (
    Action,
    Container,
    Detection,
    Event,
    Http,
    Process,
    ScanResult,
    Severity,
    Verdict,
)
from webguard.store.eset import eset12, eset13

AT = int(datetime(2026, 5, 21, 23, 1, 40, tzinfo=UTC).timestamp()) * 1_000_000_000
URL = "http://shop.test/eicar.com"
DETECTION = Detection(engine="yara", name="Eicar", kind="test file")
BLOCKED = Verdict(action=Action.BLOCK, reason="the content matched Eicar (test file)", rule="r")


def an_event(**fields: Any) -> Event:
    whole: dict[str, Any] = {
        "id": "0190a000-0000-7000-8000-000000000001",
        "at": AT,
        "kind": "web.blocked",
        "severity": Severity.HIGH,
        "subject": URL,
        "container": Container(
            runtime="docker", id="025098c", started=1, pid=2, image="alpine:latest"
        ),
        "process": Process(pid=2, started=1, exe="/usr/bin/curl", uid=0),
        "http": Http(url=URL),
        "scan": ScanResult(detections=(DETECTION,), sha256="0f" * 32),
        "verdict": BLOCKED,
    }
    return Event(**{**whole, **fields})


def columns(line: str) -> list[str]:
    """The one record of the line, as a spreadsheet reads it."""
    (record,) = csv.reader([line], strict=True)
    return record


def test_a_line_of_version_13_has_the_sample_s_form() -> None:
    assert eset13(an_event(), UTC) == (
        "05/21/2026 11:01:40 PM,Error,Web access protection,http://shop.test/eicar.com,Eicar,"
        "Test file,Blocked,0,/usr/bin/curl,"
        "the content matched Eicar (test file); docker://alpine:latest@025098c,,"
        + "0F" * 32
        + ",@NAME=Eicar@TYPE=test file@SUSP=inf"
    )


def test_a_line_of_version_12_has_the_sample_s_form() -> None:
    assert eset12(an_event(), UTC) == (
        "21.05.2026 23:01:40,1,Web access protection,http://shop.test/eicar.com,Eicar,"
        "Test file,Blocked,0,/usr/bin/curl,"
        "the content matched Eicar (test file); docker://alpine:latest@025098c,"
        + "0F" * 32
        + ",@NAME=Eicar@TYPE=test file@SUSP=inf"
    )


@pytest.mark.parametrize(
    ("hour", "shown"),
    [
        pytest.param(0, "12:01:40 AM", id="midnight"),
        pytest.param(11, "11:01:40 AM", id="morning"),
        pytest.param(12, "12:01:40 PM", id="noon"),
        pytest.param(13, "01:01:40 PM", id="afternoon"),
    ],
)
def test_hours_are_counted_to_twelve(hour: int, shown: str) -> None:
    event = an_event(at=AT + (hour - 23) * 3600 * 1_000_000_000)

    assert columns(eset13(event, UTC))[0] == f"05/21/2026 {shown}"


def test_the_time_is_of_the_zone_that_was_asked_for() -> None:
    line = eset12(an_event(), timezone(timedelta(hours=2)))

    assert columns(line)[0] == "22.05.2026 01:01:40"


@pytest.mark.parametrize("at", [-1, 2**63, 2**200], ids=["before time", "int64", "no date"])
def test_a_time_that_is_none_is_a_line_all_the_same(at: int) -> None:
    assert len(columns(eset13(an_event(at=at)))) == 13


@pytest.mark.parametrize(
    ("severity", "number", "word"),
    [
        (Severity.INFORMATIONAL, "3", "Information"),
        (Severity.LOW, "2", "Warning"),
        (Severity.MEDIUM, "2", "Warning"),
        (Severity.HIGH, "1", "Error"),
        (Severity.CRITICAL, "0", "Critical"),
    ],
)
def test_each_severity_has_the_vendor_s_number_and_word(
    severity: Severity, number: str, word: str
) -> None:
    event = an_event(severity=severity)

    assert columns(eset12(event))[1] == number
    assert columns(eset13(event))[1] == word


@pytest.mark.parametrize(
    ("action", "found", "said"),
    [
        pytest.param(Action.BLOCK, True, "Blocked", id="blocked"),
        pytest.param(Action.ALLOW, True, "Retained", id="found and let through"),
        pytest.param(Action.ALLOW, False, "Allowed", id="clean"),
        pytest.param(Action.RECORD, False, "Allowed", id="only recorded"),
        pytest.param(Action.BYPASS, False, "Not scanned", id="bypass"),
        pytest.param(Action.HOLD, False, "Held", id="hold"),
    ],
)
def test_the_action_says_what_became_of_it(action: Action, found: bool, said: str) -> None:
    event = an_event(
        verdict=Verdict(action=action, reason="so", rule="r"),
        scan=ScanResult(detections=(DETECTION,) if found else ()),
    )

    assert columns(eset13(event))[6] == said


def test_an_event_of_the_daemon_is_told_by_its_subject_and_remedy() -> None:
    event = Event(
        id="1", at=AT, kind="worker.ended", subject="worker 1", outcome="killed", remedy="look"
    )

    assert columns(eset12(event, UTC)) == [
        "21.05.2026 23:01:40",
        "3",
        "Webguard",
        "worker 1",
        *("", ""),
        "killed",
        *("", ""),
        "look",
        *("", ""),
    ]


def test_an_unscanned_event_is_no_detection() -> None:
    assert columns(eset13(an_event(scan=None)))[-2:] == ["", ""]


def test_a_detection_s_name_cannot_add_a_part() -> None:
    forged = Detection(engine="hash", name="x@SUSP=none", kind="malware")

    parts = columns(eset13(an_event(scan=ScanResult(detections=(forged,)))))[-1]

    assert parts == "@NAME=x\\x40SUSP=none@TYPE=malware@SUSP=inf"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("http://a/,b", "http://a/,b", id="comma"),
        pytest.param('http://a/"b"', 'http://a/"b"', id="quotes"),
        pytest.param("http://a/\r\n05/21", "http://a/\\r\\n05/21", id="line break"),
        pytest.param("http://a/\x00", "http://a/\\x00", id="NUL"),
        pytest.param("http://a/\x1b[2J", "http://a/\\x1b[2J", id="terminal"),
        pytest.param("http://a/\x85\u2028", "http://a/\\x85\\u2028", id="rare line breaks"),
        pytest.param("http://a/\u202egpj", "http://a/\\u202egpj", id="right to left"),
        pytest.param("http://a/\udcff", "http://a/\\xff", id="not UTF-8"),
        pytest.param("http://a/\ud800", "http://a/\\ud800", id="half a pair"),
        pytest.param("http://a/\\n", "http://a/\\n", id="backslash"),
        pytest.param("=1+1", "=1+1", id="formula, not altered"),
        pytest.param("http://ä.test/☃", "http://ä.test/☃", id="other scripts"),
    ],
)
def test_what_a_url_holds_is_shown_in_one_column(url: str, shown: str) -> None:
    line = eset13(an_event(http=Http(url=url)))

    assert columns(line)[3] == shown


anything = st.text(st.characters(codec=None, categories=None), max_size=30) | st.sampled_from(
    ['"', '"\n"', ",", "\r\n", "\n05/21/2026 11:01:40 PM,Error", '","', "\udc80", "\x00"]
)


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    def said() -> str:
        return draw(anything)

    return Event(
        id=said(),
        at=draw(st.integers()),
        kind=draw(st.sampled_from(["web.blocked", "daemon.started"]) | anything),
        severity=draw(st.sampled_from(Severity)),
        subject=said(),
        container=Container(runtime=said(), id=said(), started=1, pid=1, image=said()),
        process=Process(pid=1, started=1, exe=said(), uid=draw(st.integers())),
        http=Http(url=said()),
        scan=ScanResult(
            detections=(Detection(engine=said(), name=said(), kind=said()),), sha256=said()
        ),
        verdict=draw(
            st.none()
            | st.builds(Verdict, action=st.sampled_from(Action), reason=anything, rule=st.just("r"))
        ),
        outcome=said(),
        remedy=said(),
    )


@pytest.mark.parametrize(
    ("line_of", "width"),
    [pytest.param(eset12, 12, id="eset12"), pytest.param(eset13, 13, id="eset13")],
)
@given(event=any_event())
def test_every_event_is_one_line_and_one_record(
    line_of: Callable[[Event], str], width: int, event: Event
) -> None:
    line = line_of(event)

    assert len(line.splitlines()) == 1
    assert len(columns(line)) == width
    assert line.encode("utf-8").decode("utf-8") == line


@given(events=st.lists(any_event(), max_size=3))
def test_a_file_of_lines_is_read_back_record_by_record(events: list[Event]) -> None:
    file = "".join(eset13(each) + "\n" for each in events)

    assert [len(each) for each in csv.reader(file.splitlines(keepends=True))] == [13] * len(events)
