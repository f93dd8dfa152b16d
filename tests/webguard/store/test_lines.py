"""Events as lines: whole, one each, and counted where nobody takes them."""

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from webguard.model import Container, Event, Http, Severity
from webguard.store.lines import Lines, as_object, for_journal

EVENT = Event(id="1", at=2, kind="web.passed", subject="http://x/")


def stamps() -> Iterator[tuple[str, int]]:
    return ((f"id{each}", each) for each in count())


def lines(descriptor: int) -> Lines:
    source = stamps()
    return Lines(descriptor, lambda: next(source))


def test_an_event_says_what_is_known_and_its_severity_as_a_word() -> None:
    event = Event(id="1", at=2, kind="x", severity=Severity.HIGH)
    assert as_object(event) == {"schema": 1, "id": "1", "at": 2, "kind": "x", "severity": "high"}


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "\ud800 half a pair", "\u2028"])
def test_what_a_container_chose_cannot_make_a_line_of_its_own(tmp_path: Path, name: str) -> None:
    target = tmp_path / "events"
    shop = Container(runtime="docker", id="a", started=1, pid=2, name=name)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT)
    lines(descriptor).record(Event(id="1", at=2, kind="x", container=shop))
    os.close(descriptor)
    (line,) = target.read_bytes().splitlines()
    assert json.loads(line)["kind"] == "x"


def test_a_full_disk_costs_events_which_are_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        written = lines(descriptor)
        for _ in range(3):
            written.record(EVENT)
        assert written.lost == 3
    finally:
        os.close(descriptor)


def test_a_reader_that_has_gone_costs_events_which_are_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    written = lines(writer)
    written.record(EVENT)
    os.close(writer)
    assert written.lost == 1


def test_what_was_lost_is_told_when_there_is_room_again(tmp_path: Path) -> None:
    target = tmp_path / "events"
    descriptor = os.open("/dev/full", os.O_WRONLY)
    written = lines(descriptor)
    written.record(EVENT)
    written.record(EVENT)
    room = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.dup2(room, descriptor)
    os.close(room)

    written.record(EVENT)

    os.close(descriptor)
    loss, event = (json.loads(line) for line in target.read_text().splitlines())
    assert (loss["kind"], loss["subject"]) == ("loss", "2 events could not be written")
    assert event["kind"] == "web.passed"
    assert written.lost == 0


def test_a_reader_that_has_stopped_costs_lines_and_never_waits() -> None:
    reader, writer = os.pipe()
    written = lines(writer)
    long = Event(id="1", at=2, kind="x", subject="x" * 1000)
    try:
        for _ in range(3000):  # far more than a pipe and what may wait beside it hold
            written.record(long)
        assert written.lost > 0
        first, _, _ = os.read(reader, 4096).partition(b"\n")
        assert json.loads(first)["kind"] == "x"
    finally:
        os.close(reader)
        os.close(writer)


SHOP = Container(runtime="docker", id="a", started=1, pid=2, labels=(("auth", "admin:secret"),))
SECRET = "http://x/path?token=secret#secret"


@pytest.mark.parametrize(
    ("severity", "priority"),
    [
        (Severity.CRITICAL, 2),
        (Severity.HIGH, 3),
        (Severity.MEDIUM, 4),
        (Severity.LOW, 5),
        (Severity.INFORMATIONAL, 6),
    ],
)
def test_for_the_journal_a_line_begins_with_its_priority_and_holds_no_secret(
    tmp_path: Path, severity: Severity, priority: int
) -> None:
    event = Event(
        id="1",
        at=2,
        kind="web.blocked",
        severity=severity,
        subject=SECRET,
        container=SHOP,
        http=Http(method="GET", url=SECRET),
    )
    target = tmp_path / "events"
    with target.open("wb") as file:
        Lines(file.fileno(), lambda: ("id", 1), journal=True).record(event)

    line = target.read_text()
    assert line.startswith(f"<{priority}>{{")
    assert "secret" not in line
    kept = json.loads(line[3:])
    assert (kept["subject"], kept["http"]["url"]) == ("http://x/path", "http://x/path")
    assert kept["container"]["id"] == "a"
    assert "secret" in json.dumps(as_object(event)), "the record keeps what was asked for"


@pytest.mark.parametrize("kind", ["web.unscanned", "web.blocked"])
def test_an_address_ends_at_its_path_also_in_an_event_without_http(kind: str) -> None:
    event = Event(id="1", at=2, kind=kind, subject="wss://x/path?token=secret#secret")
    assert for_journal(as_object(event))["subject"] == "wss://x/path"


def test_a_subject_that_is_no_address_is_whole_in_the_journal() -> None:
    event = Event(id="1", at=2, kind="cert.install", subject="what? this one")
    assert for_journal(as_object(event))["subject"] == "what? this one"
