"""Events as rows: nothing an event can hold is refused by the data base or lost on the way."""

import json
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.model import Container, Event, Http, Severity
from webguard.store.parse import as_event
from webguard.store.schema import event_of, events, row


def stored(event: Event) -> sqlite3.Row:
    """The event's row, after SQLite had it."""
    with sqlite3.connect(":memory:") as connection:
        connection.row_factory = sqlite3.Row
        connection.execute(f"CREATE TABLE events ({', '.join(each.name for each in events.c)})")
        whole = row(event)
        connection.execute(
            f"INSERT INTO events ({', '.join(whole)}) VALUES ({', '.join('?' * len(whole))})",
            tuple(whole.values()),
        )
        found: sqlite3.Row = connection.execute("SELECT * FROM events").fetchone()
    connection.close()
    return found


valid = st.text(max_size=40)
anything = st.text(st.characters(codec=None, categories=None), max_size=40)


def an_event(said: str, at: int = 1) -> Event:
    return Event(
        id=said,
        at=at,
        kind=said,
        severity=Severity.CRITICAL,
        subject=said,
        container=Container(runtime="docker", id=said, started=1, pid=1, labels=((said, said),)),
        http=Http(url=said, status=200),
        outcome=said,
    )


@given(said=valid, at=st.integers(0, 2**63 - 1))
def test_an_event_comes_back_as_it_went_in(said: str, at: int) -> None:
    event = an_event(said, at)

    assert event_of(stored(event)["event"]) == event


@given(said=anything)
def test_text_that_is_no_unicode_comes_back_as_escapes(said: str) -> None:
    back = event_of(stored(an_event(said))["event"])

    back.subject.encode("utf-8")
    assert len(back.subject) >= len(said)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param("\udc80", "\\x80", id="a byte that is not UTF-8"),
        pytest.param("\ud83d", "\\ud83d", id="half a pair"),
    ],
)
def test_what_is_no_unicode_can_still_be_recognised(said: str, kept: str) -> None:
    found = stored(an_event(said))

    assert (found["subject"], event_of(found["event"]).subject) == (kept, kept)


@pytest.mark.parametrize("at", [-(2**70), 2**70], ids=["below", "above"])
def test_a_time_that_no_integer_holds_is_kept_in_the_event(at: int) -> None:
    found = stored(an_event("x", at))

    assert 0 <= found["at"] < 2**63
    assert event_of(found["event"]).at == at


def test_the_columns_to_search_by_are_short_and_the_event_is_whole() -> None:
    found = stored(an_event("u" * 9000))

    assert len(found["subject"]) < 1000
    assert event_of(found["event"]).subject == "u" * 9000


def test_an_event_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="characters"):
        row(an_event("u" * 1_000_000))


def test_keys_of_a_later_version_are_ignored() -> None:
    assert as_event({"id": "1", "at": 5, "kind": "k", "colour": "red"}).at == 5


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"id":"1","at":"soon","kind":"k"}', '{"id":"1","at":1,"severity":"loud"}'],
    ids=["nothing", "list", "empty", "wrong type", "no severity of ours"],
)
def test_what_is_no_event_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's and ours
        event_of(text)


def test_the_stored_object_is_the_documented_record() -> None:
    whole = json.loads(stored(an_event("x"))["event"])

    assert (whole["schema"], whole["severity"], whole["http"]["url"]) == (1, "critical", "x")
