"""A daemon's place changes hands once, to root, and only when the successor says so."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from webguard.daemon import handover
from webguard.daemon.handover import Inheritance, Offer, take
from webguard.daemon.paths import Paths
from webguard.errors import RefusedError, UnreachableError

# Who asks is told by the kernel, and here that is whoever runs the tests.
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is given the place")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(root=tmp_path)
    found.run.mkdir(parents=True)
    return found


class Old:
    """A daemon with a place."""

    def __init__(self) -> None:
        self.lock, self._other = os.pipe()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.refusing = ""
        self.gone = asyncio.Event()

    def gift(self) -> tuple[list[int], list[Path]]:
        if self.refusing:
            raise RefusedError(self.refusing)
        return [self.lock, self.listening.fileno()], [Path("/a/b")]

    def close(self) -> None:
        os.close(self.lock)
        os.close(self._other)
        self.listening.close()


@pytest.fixture
def old() -> Iterator[Old]:
    made = Old()
    yield made
    made.close()


def end(offer: Offer) -> None:
    """What the end of the old daemon's process does."""
    for each in offer._pipes:
        each.close()


def same(one: int, other: int) -> bool:
    """Whether two descriptors are of one file."""
    return os.path.samestat(os.fstat(one), os.fstat(other))


def let_go(taken: Inheritance) -> None:
    """What the end of the successor's process does."""
    taken.listen[0].close()
    taken._pipe.close()
    os.close(taken.lock)


@root
async def test_a_successor_gets_the_lock_and_the_very_sockets(paths: Paths, old: Old) -> None:
    offer = Offer(paths, old.gift, old.gone.set)
    async with offer:
        taken = await asyncio.to_thread(take, paths)
        (listening,) = taken.listen
        with listening:
            assert same(listening.fileno(), old.listening.fileno())
            assert same(taken.lock, old.lock)
            assert taken.removable == [Path("/a/b")]
            assert not os.get_inheritable(taken.lock)
            assert not old.gone.is_set()
            async with asyncio.timeout(10):
                await taken.say_live()
            assert old.gone.is_set()
            end(offer)
    os.close(taken.lock)


async def test_a_dead_daemons_offer_is_replaced_with_a_word(
    paths: Paths, old: Old, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(paths.handover))
    async with Offer(paths, old.gift, old.gone.set):
        assert str(paths.handover) in caplog.text


@root
async def test_an_old_daemon_that_hangs_holds_nobody_up(
    paths: Paths, old: Old, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handover, "_PATIENCE", 0.0)
    offer = Offer(paths, old.gift, old.gone.set)
    async with offer, asyncio.timeout(20):
        taken = await asyncio.to_thread(take, paths)
        asyncio.get_running_loop().remove_reader(offer._pipes[0])  # it hangs
        async with asyncio.TaskGroup() as tasks:
            saying = tasks.create_task(taken.say_live())
            while f"kill -KILL {os.getpid()}" not in caplog.text:  # noqa: ASYNC110 - a log wakes nobody
                await asyncio.sleep(0.01)  # our loop goes on meanwhile
            assert not saying.done()
            offer._answered(offer._pipes[0])  # it comes round
        assert old.gone.is_set()
        end(offer)
    taken.listen[0].close()
    os.close(taken.lock)


@root
async def test_an_old_daemon_stays_when_the_successor_did_not_wait_for_its_answer(
    paths: Paths, old: Old
) -> None:
    """Or there would be none."""
    async with Offer(paths, old.gift, old.gone.set) as _, asyncio.timeout(20):
        taken = await asyncio.to_thread(take, paths)
        taken._pipe.send(b"live")
        let_go(taken)
        again = await asyncio.to_thread(take, paths)  # the place is there to be given
        let_go(again)
        assert not old.gone.is_set()


@root
async def test_an_old_daemon_that_has_gone_leaves_its_place(paths: Paths, old: Old) -> None:
    offer = Offer(paths, old.gift, old.gone.set)
    async with offer, asyncio.timeout(20):
        taken = await asyncio.to_thread(take, paths)
        asyncio.get_running_loop().remove_reader(offer._pipes[0])
        end(offer)
        await taken.say_live()
    taken.listen[0].close()
    os.close(taken.lock)


@root
async def test_a_successor_that_ends_on_the_way_changes_nothing(paths: Paths, old: Old) -> None:
    async with Offer(paths, old.gift, old.gone.set):
        for _ in range(3):
            taken = await asyncio.to_thread(take, paths)
            let_go(taken)
            await asyncio.sleep(0)  # the daemon sees it in its next step
        assert not old.gone.is_set()


@root
async def test_two_successors_at_once_are_one_too_many(paths: Paths, old: Old) -> None:
    offer = Offer(paths, old.gift, old.gone.set)
    async with offer:
        first = await asyncio.to_thread(take, paths)
        with pytest.raises(RefusedError, match="another successor"):
            await asyncio.to_thread(take, paths)
        let_go(first)
    end(offer)


@root
async def test_a_daemon_that_must_stay_says_why(paths: Paths, old: Old) -> None:
    old.refusing = "isolation is on (turn it off)"
    async with Offer(paths, old.gift, old.gone.set):
        with pytest.raises(RefusedError, match=r"isolation is on \(turn it off\)"):
            await asyncio.to_thread(take, paths)


async def test_nobody_but_root_may_ask(paths: Paths, old: Old) -> None:
    async with Offer(paths, old.gift, old.gone.set):
        facts = paths.handover.stat()
        assert (facts.st_mode & 0o777, facts.st_uid) == (0o600, os.geteuid())


async def test_the_socket_goes_and_a_successors_stays(paths: Paths, old: Old) -> None:
    async with Offer(paths, old.gift, old.gone.set):
        pass
    assert not paths.handover.exists()
    async with Offer(paths, old.gift, old.gone.set):
        async with Offer(paths, old.gift, old.gone.set):
            pass
        paths.handover.touch()
    assert paths.handover.exists()


def test_without_a_daemon_there_is_nothing_to_take(paths: Paths) -> None:
    with pytest.raises(UnreachableError, match="start without --take-over"):
        take(paths)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(paths.handover))
    with pytest.raises(UnreachableError, match="start without --take-over"):
        take(paths)
