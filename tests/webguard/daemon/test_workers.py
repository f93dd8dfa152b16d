"""Settings for a worker: applied, refused, or taken along by its next process."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from webguard import host
from webguard.daemon import channel, workers
from webguard.daemon.channel import Channel
from webguard.daemon.children import Inherited, Service, sealed
from webguard.daemon.protection import Protection
from webguard.daemon.serving import whole
from webguard.daemon.workers import Ports, Worker
from webguard.errors import HostError
from webguard.model import Container, Event, Severity


class Told:
    """What the worker led to."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.probed: asyncio.Queue[int] = asyncio.Queue()

    def tell(
        self,
        kind: str,
        *,
        severity: Severity = Severity.INFORMATIONAL,
        subject: str = "",
        outcome: str = "",
        remedy: str = "",
    ) -> None:
        assert not severity or subject or outcome or remedy
        self.events.append(kind)

    def record(self, event: Event) -> None:
        self.events.append(event.kind)


async def _nobody(_cgroup: int) -> Container | None:
    return None


class Rig:
    """A worker whose process sleeps, and for which the test answers."""

    def __init__(self) -> None:
        self.told = Told()
        self.made: list[Inherited] = []
        self.signer, self._signers = channel.pair()
        self.worker = Worker(
            number=1,
            signer=self.signer,
            inherited=self.generation("one"),
            ports=Ports(
                record=self.told.record,
                tell=self.told.tell,
                whose=_nobody,
                containers=lambda: (),
                probed=self.told.probed.put_nowait,
                trusted=lambda _key: None,
            ),
            protection=Protection(expected_workers=1),
        )
        ours, theirs = channel.pair()
        self.other = Channel(theirs)
        child = host.spawn([sys.executable, "-c", "input()"], name="sleeper", remedy="none")
        child.signal(signal.SIGSTOP)
        self.child = child
        self.worker.service = Service(child, Channel(ours))

    def end(self) -> None:
        """Let the process end, and nobody start another."""
        self.worker._stopping = True
        self.child.signal(signal.SIGKILL)
        self.other.close()

    def close(self) -> None:
        """Close what the processes had in common."""
        self.signer.close()
        self._signers.close()
        for each in self.made:
            for descriptor in (each.settings, each.rules, each.roots):
                os.close(descriptor)

    def generation(self, name: str) -> Inherited:
        """Settings, rules and roots that can be told from others."""
        names = "settings", "rules", "roots"
        descriptors = [sealed(each, f"{name} {each}".encode()) for each in names]
        self.made.append(Inherited([], *descriptors))
        return self.made[-1]

    async def answer(self, said: Sequence[channel.Message]) -> list[str]:
        """Take one message, and say these."""
        received = await self.other.receive_with()
        assert received is not None
        for each in said:
            self.other.send(each)
        return [content(each) for each in received[1]]


def content(descriptor: int) -> str:
    try:
        return whole(descriptor).decode()
    finally:
        os.close(descriptor)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    made.worker._serves = True
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(made.worker.keep())
        yield made
        made.end()
    made.close()


SHOP = Container(runtime="docker", id="ab" * 32, started=7, pid=42, cgroups=(5,), name="shop")
APPLIED = channel.Applied(generation=2)


async def test_it_is_done_when_the_process_says_so(rig: Rig) -> None:
    wanted = rig.generation("two")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.worker.configure(wanted, 2))
        assert await rig.answer([APPLIED]) == ["two settings", "two rules", "two roots"]
    assert rig.worker.inherited is wanted


@pytest.mark.parametrize(
    ("said", "why"),
    [
        pytest.param(channel.Applied(generation=2, problem="no room"), "no room", id="a problem"),
        pytest.param(channel.Applied(generation=1), "another generation", id="another one"),
    ],
)
async def test_what_it_does_not_take_is_not_given_to_the_next_process(
    rig: Rig, said: channel.Message, why: str
) -> None:
    old = rig.worker.inherited
    with pytest.RaisesGroup(pytest.RaisesExc(HostError, match=why)):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rig.worker.configure(rig.generation("two"), 2))
            await rig.answer([said])
    assert rig.worker.inherited is old


async def test_one_that_does_not_answer_is_ended_lest_it_comes_round(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_APPLY", 0.05)
    rig.worker._stopping = True  # or its successor would be started here
    with pytest.raises(HostError, match="no answer"):
        await rig.worker.configure(rig.generation("two"), 2)
    assert await rig.child.wait() == -signal.SIGKILL


async def test_one_that_applies_settings_may_be_silent_but_not_for_ever(rig: Rig) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.worker.configure(rig.generation("two"), 2))
        await rig.answer([])
        rig.worker._heard = time.monotonic() - workers._BUSY / 2
        assert rig.worker.silent_for() == 0
        rig.worker._heard = time.monotonic() - workers._BUSY * 2
        assert rig.worker.silent_for() > workers._BUSY / 2
        rig.other.send(APPLIED)
    assert rig.worker.silent_for() < workers._BUSY / 2


async def test_one_that_ends_meanwhile_leaves_them_to_its_successor(rig: Rig) -> None:
    wanted = rig.generation("two")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.worker.configure(wanted, 2))
        await rig.answer([])
        rig.end()
    assert rig.worker.inherited is wanted


async def test_one_that_is_starting_must_not_serve_by_the_old_ones(rig: Rig) -> None:
    wanted = rig.generation("two")
    rig.worker._serves, rig.worker._stopping = False, True
    await rig.worker.configure(wanted, 2)
    assert rig.worker.inherited is wanted
    assert await rig.child.wait() == -signal.SIGKILL


async def test_only_what_a_worker_may_say_is_heard(rig: Rig) -> None:
    event = Event(id="1", at=2, kind="web.blocked")
    for each in (
        channel.Ready(),
        channel.Drain(seconds=1),
        channel.Happened(event=event),
        channel.Lost(count=3),
        channel.Resolve(cgroup=7),
        channel.Probed(port=9, host="::1"),
    ):
        rig.other.send(each)
    async with asyncio.timeout(10):
        answer = await rig.other.receive()
    assert answer == channel.Resolved(cgroup=7, container=None)
    async with asyncio.timeout(10):
        assert await rig.told.probed.get() == 9
    assert rig.told.events == ["web.blocked", "loss"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(channel.Ready(), id="it says that it is ready"),
        pytest.param(channel.Count(served=0, direct=0, probes=0, open=0), id="it counts"),
    ],
)
async def test_one_whose_start_was_not_waited_for_serves_when_it_says_so(
    rig: Rig, said: channel.Message
) -> None:
    """`keep` may be cancelled while it restarts one; another `keep` then finds it half-way."""
    rig.worker._serves = False
    rig.worker.ports.containers = lambda: (SHOP,)
    rig.other.send(said)
    async with asyncio.timeout(10):
        known = await rig.other.receive()

    assert known == channel.Known(cgroups=SHOP.cgroups, container=SHOP, gone=False)
    assert rig.worker.silent_for() > 0
    rig.worker._stopping = True  # or its successor would be started here
    rig.worker.kill()
    assert await rig.child.wait() == -signal.SIGKILL


async def test_one_that_never_comes_to_serve_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START", 0.05)
    made = Rig()
    made.worker._stopping = True  # or its successor would be started here
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(made.worker.keep())
        assert await made.child.wait() == -signal.SIGKILL
        made.other.close()
    made.close()


async def test_silence_is_measured_while_it_serves(rig: Rig) -> None:
    assert rig.worker.silent_for() > 0
    rig.other.send(channel.Count(served=5, direct=0, probes=0, open=1))
    rig.other.send(channel.Probed(port=9, host="::1"))  # what came before it is heard then
    async with asyncio.timeout(10):
        await rig.told.probed.get()
    assert rig.worker.counted.served == 5
    heard = rig.worker.silent_for()
    rig.worker._serves = False
    assert (heard > 0, rig.worker.silent_for()) == (True, 0)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 0.0), (2, 0.2), (7, 10.0), (100, 10.0)],
    ids=["after a steady life", "again", "often", "ever more"],
)
def test_the_pause_before_a_restart_grows_and_stays_bounded(failures: int, seconds: float) -> None:
    assert workers.pause(failures) == seconds
