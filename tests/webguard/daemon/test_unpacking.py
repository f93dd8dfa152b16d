"""Archives of workers: a real scan process, run as ourselves, and what becomes of its death."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.webguard.scan.packing import zipped
from webguard.daemon import channel, children, scanners
from webguard.daemon.archives import Archives
from webguard.daemon.channel import Channel
from webguard.daemon.material import Material
from webguard.daemon.scanners import Scanners
from webguard.model import Detection, ScanResult, Severity
from webguard.policy.config import Config
from webguard.policy.decide import Policy
from webguard.scan.archive import ARCHIVE
from webguard.scan.engine import compile_rules

BAD = b"this is the malware of this test"


def material(word: bytes = BAD, generation: int = 1) -> Material:
    text = f'rule Own {{ strings: $a = "{word.decode()}" condition: $a }}'
    return Material(
        config=Config(),
        policy=Policy(generation=generation),
        rules=compile_rules({"own.yar": text}),
    )


class Rig:
    """Scan processes that are kept, and a worker's link to them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.scanners = Scanners(material(), self._tell)
        (self.end,) = self.scanners.of_worker(1)
        self.archives = Archives([Channel(self.end)])

    def _tell(
        self,
        kind: str,
        *,
        severity: Severity = Severity.LOW,
        subject: str = "",
        outcome: str = "",
        remedy: str = "",
    ) -> None:
        assert all((severity, subject, remedy))
        self.told.append((kind, outcome))

    async def members(self, content: bytes) -> list[str]:
        result = await self.archives.unpack(content)
        assert result.unscanned == ()
        return [each.member for each in result.detections]

    async def reason(self, content: bytes) -> str:
        result = await self.archives.unpack(content)
        assert result.detections == ()
        ((where, reason),) = [(each.where, each.reason) for each in result.unscanned]
        assert where == ARCHIVE
        return reason


@asynccontextmanager
async def rig(patience: float = 60) -> AsyncIterator[Rig]:
    made = Rig()
    made.archives._patience = patience
    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(made.scanners.keep()),
            tasks.create_task(made.archives.listen()),
        ]
        try:
            yield made
        finally:
            for each in running:
                each.cancel()
            await made.scanners.stop()


@pytest.fixture(autouse=True)
def _as_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own user only an installation has."""
    monkeypatch.setattr(children, "SCAN_USER", None)


@pytest.mark.slow
async def test_archives_are_opened_and_nothing_else_is_sent() -> None:
    async with rig() as made:
        assert await made.members(zipped({"a/bad": BAD})) == ["zip/a/bad"]
        assert await made.members(zipped({"good": b"x"})) == []
        assert await made.members(BAD) == []
        many = [made.members(zipped({str(n): BAD})) for n in range(20)]
        assert await asyncio.gather(*many) == [[f"zip/{n}"] for n in range(20)]
    assert made.told == []


@pytest.mark.slow
async def test_every_worker_is_served() -> None:
    async with rig() as made:
        (end,) = made.scanners.of_worker(2)
        other = Archives([Channel(end)], patience=60)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(other.listen())
            many = [made.members(zipped({"bad": BAD})) for _ in range(6)]
            second = [other.unpack(zipped({"bad": BAD})) for _ in range(6)]
            assert await asyncio.gather(*many) == [["zip/bad"]] * 6
            assert [len(each.detections) for each in await asyncio.gather(*second)] == [1] * 6
            listening.cancel()
    assert made.told == []


@pytest.mark.slow
async def test_a_process_that_is_killed_is_replaced_and_told() -> None:
    async with rig() as made:
        await made.members(zipped({"a": b""}))
        (before,) = (each.pid for each in made.scanners.each)
        os.kill(before, signal.SIGKILL)
        # It may still be sent to the dead one, and then has no answer.
        made.archives._patience = 2
        while (await made.archives.unpack(zipped({"bad": BAD}))).detections == ():
            pass
        (after,) = (each.pid for each in made.scanners.each)
    assert after not in (0, before)
    assert made.told == [("scanner.ended", "exit code -9")]


@pytest.mark.slow
async def test_a_process_that_is_stopped_is_not_waited_for_and_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig(patience=0.5) as made:
        await made.scanners.each[0].ready.wait()
        os.kill(made.scanners.each[0].pid, signal.SIGSTOP)
        assert await made.reason(zipped({"bad": BAD})) == (
            "the scan process did not answer within 0.5 s"
        )
        monkeypatch.setattr(scanners, "_HUNG", 0.1)
        while not made.told:  # noqa: ASYNC110 - it is the daemon's to tell, not ours to be told
            await asyncio.sleep(0.05)
        made.archives._patience = 60
        assert await made.members(zipped({"bad": BAD})) == ["zip/bad"]
    assert made.told == [("scanner.ended", "exit code -9")]


@pytest.mark.slow
async def test_other_rules_are_in_force_when_it_is_said() -> None:
    async with rig() as made:
        assert await made.members(zipped({"a": b"another word"})) == []
        await made.scanners.renew(material(b"another word", 2))
        assert await made.members(zipped({"a": b"another word"})) == ["zip/a"]
    assert made.told == []


@pytest.mark.slow
async def test_what_is_no_sealed_memory_gets_no_answer_and_harms_nobody() -> None:
    async with rig() as made:
        await made.scanners.each[0].ready.wait()
        reader, writer = os.pipe()
        waiting = made.archives._links[0].waiting
        answer = waiting[4] = asyncio.get_running_loop().create_future()
        open_to_change = os.memfd_create("archive", os.MFD_ALLOW_SEALING)
        os.write(open_to_change, zipped({"bad": BAD}))
        with tempfile.TemporaryFile() as file:
            for data, held in (
                (b'{"number": 1}', [reader]),
                (b'{"number": 2}', [file.fileno()]),
                (b'{"number": 3}', []),
                (b'{"number": 4}', [open_to_change]),
                (b"nonsense", [file.fileno()]),
                (b'{"number": []}', [file.fileno()]),
            ):
                socket.send_fds(made.end, [data], held)
        assert await made.members(zipped({"bad": BAD})) == ["zip/bad"]
        for each in (reader, writer, open_to_change):
            os.close(each)
        assert not answer.done()
    assert made.told == []


async def test_without_a_process_nothing_hangs_and_nothing_is_clean() -> None:
    ours, theirs = channel.pair()
    with theirs:
        archives = Archives([Channel(ours)], patience=0.05)
        full = await archives.unpack(zipped({"bad": BAD}))
        assert await archives.unpack(b"no archive") == ScanResult()
    gone = await archives.unpack(zipped({"bad": BAD}))
    ours.close()

    assert [each.reason for each in full.unscanned] == [
        "the scan process did not answer within 0.05 s"
    ]
    assert [each.reason for each in gone.unscanned] == ["the scan process does not read"]


async def test_an_answer_to_another_question_is_not_taken() -> None:
    ours, theirs = channel.pair()
    scanner = Channel(theirs)
    archives = Archives([Channel(ours)], patience=60)
    found = ScanResult(detections=(Detection(engine="yara", name="Own", member="zip/bad"),))
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(archives.listen())
        asking = tasks.create_task(archives.unpack(zipped({"bad": BAD})))
        received = await scanner.receive_with()
        assert received is not None
        message, (descriptor,) = received
        os.close(descriptor)
        assert isinstance(message, channel.Unpack)
        theirs.send(b"nonsense")
        scanner.send(channel.Unpacked(number=message.number + 1, result=ScanResult()))
        scanner.send(channel.Unpacked(number=message.number, result=found))

        assert await asking == found
        listening.cancel()
    theirs.close()
    ours.close()
