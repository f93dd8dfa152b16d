"""Scan paths on demand: walk and open as whoever asks, read and scan unprivileged.

This side has the rights, so it looks into no file: it opens them and hands the
descriptors to scanning processes. A file that ends its process, or keeps it
longer than it may, is not scanned, and the next one gets a new process.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from webguard import host
from webguard.daemon import channel
from webguard.daemon.children import sealed
from webguard.daemon.scanning import FILE, LARGEST
from webguard.daemon.walk import File, Folder, Missed, Passed, Step, walk
from webguard.errors import HostError
from webguard.model import ENGINE, ScanResult, Unscanned
from webguard.policy.hashes import HashList

PROCESSES = min(2, os.cpu_count() or 1)
PER_FILE = 60.0
"""Seconds for one file, reading included: a disk may be slow, a network file system hang."""

_PER_LAYER = 20  # seconds of processor time for each thing that a file decodes to
_START = 60.0
_GRACE = 2.0
_REMEDY = "run `make install` again: it makes the service users and a place they can read"


class _Message(BaseModel):
    # A scanning process has read hostile files and may have been taken over.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ready(_Message):
    """From a scanning process, once: it can scan. `problem` is why it never will."""

    type: Literal["ready"]
    problem: str = Field(max_length=2000)


class Answer(_Message):
    """From a scanning process: what it found."""

    type: Literal["answer"]
    number: int
    read: int = Field(ge=0)  # bytes
    result: ScanResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to scan, with what, and as whom."""

    paths: Sequence[str]
    rules: bytes
    hashes: tuple[HashList, ...] = ()
    user: str | None = None  # of the scanning processes; None: as ourselves
    largest: int = 64 * 1024**2  # bytes of a file; a larger one is not scanned
    one_file_system: bool = False
    processes: int = PROCESSES
    per_file: float = PER_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is worth telling about one path: something was found, or not everything looked at."""

    path: str
    size: int
    result: ScanResult


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a scan has done so far."""

    files: int = 0  # that were read
    folders: int = 0
    bytes: int = 0
    found: int = 0  # files
    unscanned: int = 0  # paths, among them files that were read in part
    absent: int = 0  # paths that were named and could not be opened
    passed: Counter[str] = field(default_factory=Counter)  # by what they are
    interrupted: bool = False
    seconds: float = 0.0


type Tell = Callable[[Outcome], None]
type Tick = Callable[[Tally], None]


def scan(job: Job, tell: Tell, tick: Tick) -> Tally:
    """Scan until everything was looked at, or SIGINT or SIGTERM says that it is enough.

    `tick` is called after each step. Raises `WebguardError` when no scanning
    process can be started; what the files do is an outcome.
    """
    return asyncio.run(_scan(job, tell, tick))


async def _scan(job: Job, tell: Tell, tick: Tick) -> Tally:
    tally, began = Tally(), time.monotonic()
    steps = walk(job.paths, one_file_system=job.one_file_system)
    try:
        async with asyncio.TaskGroup() as tasks:
            work = _Work(job, steps, tally, tell, tick)
            running = [tasks.create_task(work.run()) for _ in range(job.processes)]

            def enough() -> None:
                tally.interrupted = True
                for each in running:
                    each.cancel()

            _on_signals(enough)
    except BaseExceptionGroup as group:
        # Both tasks had the same trouble, or one did and the other was stopped for it.
        raise _first(group) from group
    finally:
        steps.close()
        tally.seconds = time.monotonic() - began
    return tally


def _on_signals(deed: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # What a shell starts in the background, or nohup, is not to hear of Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, deed)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the tasks share: each takes the next step when its process has time."""

    job: Job
    steps: Iterator[Step]
    tally: Tally
    tell: Tell
    tick: Tick

    async def run(self) -> None:
        scanner = Scanner(self.job)
        try:
            for step in self.steps:
                match step:
                    case File():
                        await self._file(scanner, step)
                    case Folder():
                        self.tally.folders += 1
                    case Passed():
                        self.tally.passed[step.what] += 1
                    case Missed():
                        self.tally.absent += step.absent
                        self._missed(step.path, 0, FILE, step.reason)
                self.tick(self.tally)
                # A tree without files must not keep us from hearing a signal.
                await asyncio.sleep(0)
        finally:
            await scanner.stop()

    async def _file(self, scanner: "Scanner", file: File) -> None:
        try:
            answer = await scanner.scan(file.descriptor)
        except ScannerError as error:
            self._missed(file.path, file.size, ENGINE, str(error))
            return
        finally:
            os.close(file.descriptor)
        result = answer.result
        self.tally.files += result.sha256 != ""
        self.tally.bytes += answer.read
        self.tally.found += bool(result.detections)
        self.tally.unscanned += bool(result.unscanned)
        if result.detections or result.unscanned:
            self.tell(Outcome(path=file.path, size=file.size, result=result))

    def _missed(self, path: str, size: int, where: str, reason: str) -> None:
        self.tally.unscanned += 1
        result = ScanResult(unscanned=(Unscanned(where=where, reason=reason),))
        self.tell(Outcome(path=path, size=size, result=result))


class ScannerError(Exception):
    """A file got no answer; the message says why. There is a new process for the next one."""


class Scanner:
    """One scanning process, replaced whenever it does not answer."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._number = 0
        self._process: tuple[host.Child, socket.socket] | None = None

    async def start(self) -> None:
        """Start the process and wait until it can scan. Raises `HostError` if it cannot."""
        ours, theirs = channel.pair()
        ours.setblocking(False)
        with theirs:
            try:
                child = self._spawn(theirs)
            except HostError:
                ours.close()
                raise
        self._process = child, ours
        try:
            async with asyncio.timeout(_START):
                ready = Ready.model_validate_json(await self._heard(ours))
        except TimeoutError as error:
            why = f"not ready after {_START:g} s"
            raise HostError("start webguard-scan", why, _REMEDY) from error
        except ValueError as error:
            raise HostError("start webguard-scan", "it ended at once", _REMEDY) from error
        if ready.problem:
            raise HostError("start webguard-scan", ready.problem, _REMEDY)

    async def scan(self, descriptor: int) -> Answer:
        """Return what the process found in this open file.

        Raises `ScannerError` when it does not say, and `HostError` when there is
        no new one to be had.
        """
        if self._process is None:
            await self.start()
        assert self._process is not None  # noqa: S101 - for mypy: `start` has set it
        _child, end = self._process
        self._number += 1
        try:
            async with asyncio.timeout(self._job.per_file):
                asked = json.dumps({"number": self._number}).encode()
                socket.send_fds(end, [asked], [descriptor], socket.MSG_NOSIGNAL)
                answer = Answer.model_validate_json(await self._heard(end))
        except TimeoutError as error:
            await self.stop()
            raise ScannerError(f"it took more than {self._job.per_file:g} s") from error
        except (OSError, ValueError) as error:
            code = await self.stop(_GRACE)
            raise ScannerError(f"the scanner ended ({_how(code)})") from error
        if answer.number != self._number:
            await self.stop()
            raise ScannerError("the scanner answered something else")
        return answer

    async def stop(self, patience: float = 0) -> int | None:
        """End the process, which holds nothing worth saving.

        One that is ending gets `patience` seconds, so that we learn how. Returns
        that, None if it hangs or never started.
        """
        if self._process is None:
            return None
        (child, end), self._process = self._process, None
        end.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                return await child.wait()
        child.signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(_GRACE):
                return await child.wait()
        except TimeoutError:
            # It waits for a disk or a server in the kernel, and dies when that answers.
            return None

    def _spawn(self, theirs: socket.socket) -> host.Child:
        lists = [(each.name, each.entries) for each in self._job.hashes]
        rules = sealed("rules", self._job.rules)
        hashes = sealed("hashes", json.dumps(lists).encode())
        named = {
            "parent": os.getpid(),
            "channel": theirs.fileno(),
            "rules": rules,
            "hashes": hashes,
            "largest": self._job.largest,
            "seconds": _PER_LAYER,
        }
        try:
            return host.spawn(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "webguard.daemon.scanning",
                    *(f"--{name}={value}" for name, value in named.items()),
                ],
                name="webguard-scan",
                user=self._job.user,
                fds=[theirs.fileno(), rules, hashes],
                remedy=_REMEDY,
            )
        finally:
            os.close(rules)
            os.close(hashes)

    async def _heard(self, end: socket.socket) -> bytes:
        """Return the next message; b"", which is none of ours, when the process has ended."""
        try:
            return await asyncio.get_running_loop().sock_recv(end, LARGEST)
        except ConnectionError:
            return b""


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _how(code: int | None) -> str:
    if code is None:
        return "and hangs"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
