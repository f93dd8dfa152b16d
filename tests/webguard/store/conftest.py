"""What the tests of the record share: events, and stores that end with their test."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from webguard.model import (
    Action,
    Container,
    Detection,
    Event,
    Http,
    Network,
    ScanResult,
    Severity,
    Verdict,
)
from webguard.store.record import Store
from webguard.store.writer import Keep

NOON = 1_795_000_000_000_000_000  # 2026-11-18, in ns


class Maker:
    """Makes what stores are given."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def stamp(self) -> tuple[str, int]:
        """An id of UUIDv7's form that nobody had before, and a time that goes on."""
        number = next(self._numbers)
        return f"0190a000-0000-7000-8000-{number:012x}", NOON + number * 1_000_000

    def container(self, name: str = "shop", id_: str = "ab" * 32) -> Container:
        return Container(
            runtime="docker",
            id=id_,
            started=7,
            pid=42,
            network=Network.HOST,
            name=name,
            image="shop:1",
            labels=(("tier", "front"),),
        )

    def event(self, subject: str = "http://shop.test/eicar.com", **fields: Any) -> Event:
        """A blocked download, unless told otherwise."""
        event_id, at = self.stamp()
        whole: dict[str, Any] = {
            "id": event_id,
            "at": at,
            "kind": "web.blocked",
            "severity": Severity.HIGH,
            "subject": subject,
            "container": self.container(),
            "http": Http(method="GET", url=subject, status=200),
            "scan": ScanResult(
                detections=(Detection(engine="yara", name="Eicar", kind="test file"),),
                sha256="0f" * 32,
            ),
            "verdict": Verdict(action=Action.BLOCK, reason="it matched Eicar", rule="yara"),
            "outcome": "not delivered",
        }
        return Event(**{**whole, **fields})

    def events(self, count: int) -> list[Event]:
        return [self.event(f"http://shop.test/{number}") for number in range(count)]


@pytest.fixture(scope="session")
def make() -> Maker:
    return Maker()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder / "events.db"


type StoreMaker = Callable[..., Store]


@pytest.fixture
def a_store(path: Path, make: Maker) -> Iterator[StoreMaker]:
    """Open stores at `path`, and end them with the test."""
    stores: list[Store] = []

    def started(**settings: Any) -> Store:
        whole: dict[str, Any] = {"stamp": make.stamp, "keep": Keep()} | settings
        store = Store(path, **whole)
        stores.append(store)
        return store

    yield started
    for each in stores:
        each.close()
