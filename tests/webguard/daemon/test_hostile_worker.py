"""A worker that was taken over says what it likes, and the daemon goes on."""

import asyncio
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netiso import cgroups
from tests.webguard.daemon.test_workers import Rig
from webguard.daemon import channel
from webguard.model import Container, Event
from webguard.store.lines import Lines
from webguard.store.schema import row

INTS = st.integers() | st.sampled_from([-1, 0, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400])
TEXTS = st.text(max_size=20)
FIELDS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "resolve": {"cgroup": INTS},
    "probed": {"port": INTS, "host": TEXTS},
    "handshake": {"runtime": TEXTS, "id": TEXTS, "started": INTS},
    "lost": {"count": INTS},
    "count": {"served": INTS, "direct": INTS, "probes": INTS, "open": INTS},
    "applied": {"generation": INTS, "problem": TEXTS},
    "ready": {},
    "failed": {"message": TEXTS},
    "configure": {"generation": INTS},
    "drain": {"seconds": st.floats(allow_nan=False, allow_infinity=False)},
    "cut": {},
    "resolved": {"cgroup": INTS, "container": st.none()},
    "mint": {"number": INTS, "names": st.just([]), "public_key": st.just("")},
    "minted": {"number": INTS},
    "happened": {
        "event": st.fixed_dictionaries(
            {"id": TEXTS, "at": INTS, "kind": TEXTS},
            optional={"schema": INTS, "severity": st.integers(0, 5)},
        )
    },
}
SAID = st.one_of(
    [st.fixed_dictionaries({"type": st.just(kind), **fields}) for kind, fields in FIELDS.items()]
)


async def ends(rig: Rig, said: list[dict[str, object]]) -> bool:
    """Say it, and return whether the daemon's listening came to an end by it."""
    async with asyncio.timeout(20):
        listening = asyncio.ensure_future(rig.worker.keep())
        for each in said:
            rig.other._socket.send(json.dumps(each).encode())
            await asyncio.sleep(0)
        rig.other.send(channel.Resolve(cgroup=7))
        answers = asyncio.ensure_future(answered(rig))
        await asyncio.wait((listening, answers), return_when=asyncio.FIRST_COMPLETED)
        ended = listening.done()
        answers.cancel()
        rig.end()
        await asyncio.gather(listening, answers, return_exceptions=True)
    rig.close()
    return ended


async def answered(rig: Rig) -> None:
    while await rig.other.receive() != channel.Resolved(cgroup=7, container=None):
        pass


@given(said=st.lists(SAID, max_size=20))
async def test_nothing_that_a_worker_says_ends_the_daemon(
    tmp_path_factory: pytest.TempPathFactory, said: list[dict[str, object]]
) -> None:
    rig, root = Rig(), tmp_path_factory.getbasetemp()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    lines = Lines(nowhere, lambda: ("1", 1))

    async def whose(cgroup: int) -> Container | None:
        assert cgroups.path_of(cgroup, root) is None
        return None

    def record(event: Event) -> None:
        lines.record(event)
        assert row(event)

    rig.worker.ports.whose, rig.worker.ports.record = whose, record
    assert not await ends(rig, said)
    os.close(nowhere)


async def test_a_question_that_cannot_be_answered_is_answered_with_nobody() -> None:
    async def no_descriptors(_cgroup: int) -> Container | None:
        raise OSError(24, "Too many open files")

    rig = Rig()
    rig.worker.ports.whose = no_descriptors
    assert not await ends(rig, [{"type": "resolve", "cgroup": 5}])


async def test_an_event_that_cannot_be_recorded_does_not_end_the_daemon() -> None:
    def fail(_event: Event) -> None:
        raise OverflowError("too large")

    rig = Rig()
    rig.worker.ports.record = fail
    event = {"id": "1", "at": 1, "kind": "web.blocked"}
    assert not await ends(rig, [{"type": "happened", "event": event}])
