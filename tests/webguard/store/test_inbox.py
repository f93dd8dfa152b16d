"""The queue before the record: bounded, and honest about what it did not take."""

import threading
from pathlib import Path

import pytest

from webguard.model import Event, Process, ScanResult, Severity, Unscanned
from webguard.store.inbox import Inbox, weight


def stamp() -> tuple[str, int]:
    return "stamped", 9_000_000_000


def an_inbox(events: int = 3, size: int = 10**6) -> Inbox:
    return Inbox(events=events, size=size, stamp=stamp, missing="were not kept", remedy="hurry")


def an_event(number: int, subject: str = "") -> Event:
    return Event(id=str(number), at=number * 1_000_000_000, kind="k", subject=subject)


def ids(events: list[Event]) -> list[str]:
    return [each.id for each in events]


def test_events_come_out_in_the_order_they_went_in() -> None:
    inbox = an_inbox()
    for number in (1, 2, 3):
        assert inbox.put(an_event(number))

    assert ids(inbox.take(2, 0)) == ["1", "2"]
    assert ids(inbox.take(2, 0)) == ["3"]
    assert inbox.take(2, 0) == []


def test_what_does_not_fit_is_told_once_with_its_number_and_times() -> None:
    inbox = an_inbox(events=1)
    taken = [inbox.put(an_event(number)) for number in (1, 2, 5, 3)]

    kept, loss = inbox.take(10, 0)

    assert taken == [True, False, False, False]
    assert kept.id == "1"
    assert (loss.kind, loss.severity, loss.id) == ("loss", Severity.HIGH, "stamped")
    assert loss.subject == (
        "3 events were not kept, from 1970-01-01T00:00:02Z to 1970-01-01T00:00:05Z"
    )
    assert (loss.outcome, loss.remedy) == ("3: they came faster than they were taken", "hurry")
    assert inbox.take(10, 0) == []
    assert inbox.lost == 3


def test_losses_after_a_told_one_are_told_anew() -> None:
    inbox = an_inbox(events=0)
    inbox.put(an_event(1))
    inbox.take(1, 0)
    inbox.put(an_event(8))

    (loss,) = inbox.take(1, 0)

    assert loss.subject.startswith("1 events were not kept, from 1970-01-01T00:00:08Z to 1970-01")


def test_a_loss_is_owed_until_it_is_told() -> None:
    inbox = an_inbox(events=0)
    inbox.put(an_event(1))
    owed = [inbox.owing]
    inbox.take(1, 0)
    owed.append(inbox.owing)
    inbox.told()

    assert [*owed, inbox.owing] == [True, True, False]


def test_a_loss_of_several_reasons_names_each() -> None:
    inbox = an_inbox()
    inbox.lose(2, 1, 2, "too large")
    inbox.lose(1, 3, 3, "too late")

    (loss,) = inbox.take(1, 0)

    assert loss.outcome == "2: too large; 1: too late"


@pytest.mark.parametrize("at", [-(2**80), 2**80, 10**400], ids=["before", "after", "no float"])
def test_a_loss_at_an_impossible_time_is_told(at: int) -> None:
    inbox = an_inbox(events=0)
    inbox.put(Event(id="1", at=at, kind="k"))

    assert inbox.take(1, 0)[0].kind == "loss"


def test_long_texts_fill_the_queue_sooner() -> None:
    inbox = an_inbox(events=1000, size=100_000)

    taken = [inbox.put(an_event(number, "u" * 30_000)) for number in range(5)]
    inbox.take(1, 0)

    assert taken == [True, True, True, False, False]
    assert inbox.put(an_event(9, "u" * 30_000))


@pytest.mark.parametrize(
    "event",
    [
        Event(id="1", at=1, kind="k", process=Process(pid=1, started=1, argv=("x" * 50_000,))),
        Event(
            id="1",
            at=1,
            kind="k",
            scan=ScanResult(unscanned=(Unscanned(where="x", reason="y" * 50_000),)),
        ),
        Event(id="x" * 50_000, at=1, kind="k"),
        Event(id="1", at=1, kind="k", remedy="x" * 50_000),
    ],
    ids=["argv", "reason", "id", "remedy"],
)
def test_no_text_is_free(event: Event) -> None:
    assert weight(event) > 50_000


def test_a_waiting_taker_is_woken_by_an_event() -> None:
    inbox = an_inbox()
    found: list[Event] = []
    taker = threading.Thread(target=lambda: found.extend(inbox.take(1, 60)))
    taker.start()

    inbox.put(an_event(1))
    taker.join(30)

    assert ids(found) == ["1"]


def test_a_waiting_taker_can_be_sent_away() -> None:
    inbox = an_inbox()
    taker = threading.Thread(target=lambda: inbox.take(1, 600))
    taker.start()

    while taker.is_alive():
        inbox.wake()
        taker.join(0.05)


def test_many_writers_lose_nothing_uncounted() -> None:
    inbox = an_inbox(events=50)

    def write() -> None:
        for number in range(200):
            inbox.put(an_event(number))

    writers = [threading.Thread(target=write) for _ in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()

    assert len(inbox) == 50
    assert (inbox.accepted, inbox.lost) == (50, 750)


def test_the_text_of_a_container_that_is_shared_costs_nothing(tmp_path: Path) -> None:
    assert weight(an_event(1)) < 2048
