"""The scanning process: real ones, run as ourselves, that get files and lose their lives."""

import asyncio
import gzip
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.webguard.scan.packing import tarred, written, zipped
from webguard.daemon.ondemand import Answer, Job, Scanner, ScannerError
from webguard.daemon.scanning import FILE
from webguard.errors import HostError
from webguard.policy.hashes import HashList
from webguard.scan.engine import compile_rules

pytestmark = pytest.mark.slow

MALWARE = b"this is the malware of this test"
MIB = 1024**2

JOB = Job(
    paths=(),
    rules=compile_rules(
        {"own.yar": f'rule Own {{ strings: $a = "{MALWARE.decode()}" condition: $a }}'}
    ),
    hashes=(HashList(name="ours", entries=(("0cc175b9c0f1b6a831c399e269772661", "Letter"),)),),
    largest=MIB,
    per_file=20,
)


@pytest.fixture(scope="module")
def scanner() -> Iterator[Scanner]:
    """One for all: a process that a test has ended is replaced, which is what it is for."""
    made = Scanner(JOB)
    yield made
    asyncio.run(made.stop())


async def scan(scanner: Scanner, path: Path) -> Answer:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return await scanner.scan(descriptor)
    finally:
        os.close(descriptor)


async def scan_of(scanner: Scanner, folder: Path, content: bytes) -> Answer:
    (folder / "content").write_bytes(content)
    return await scan(scanner, folder / "content")


async def living(scanner: Scanner) -> tuple[int, socket.socket]:
    """The pid of its process, and our end of the channel."""
    if scanner._process is None:
        await scanner.start()
    assert scanner._process is not None
    child, end = scanner._process
    return child.pid, end


def proc(pid: int, name: str) -> Path:
    return Path(f"/proc/{pid}", name)


async def test_files_are_scanned_one_after_the_other(scanner: Scanner, tmp_path: Path) -> None:
    answers = [
        await scan_of(scanner, tmp_path, content)
        for content in (b"clean", MALWARE, gzip.compress(MALWARE), b"", b"a", bytes(MIB))
    ]

    found = [[(d.engine, d.name, d.member) for d in each.result.detections] for each in answers]
    assert found == [
        [],
        [("yara", "Own", "")],
        [("yara", "Own", "gzip")],
        [],
        [("hash", "ours/Letter", "")],
        [],
    ]
    assert [each.read for each in answers][3:] == [0, 1, MIB]
    assert {each.result.unscanned for each in answers} == {()}


async def test_archives_are_opened_behind_the_door(scanner: Scanner, tmp_path: Path) -> None:
    contents = (
        zipped({"a/bad": MALWARE}),
        tarred({"bad": MALWARE}, "w:gz"),
        tarred({"bad": MALWARE}, "w:xz"),
        written("7zip", "b\xe4d", MALWARE),
        zipped({"b.zip": zipped({"bad": MALWARE})}),
    )
    answers = [await scan_of(scanner, tmp_path, content) for content in contents]

    assert [each.result.detections[-1].member for each in answers] == [
        "zip/a/bad",
        "gzip/tar/bad",
        "xz/tar/bad",
        "7zip/b\xe4d",
        "zip/b.zip/zip/bad",
    ]
    assert {each.result.unscanned for each in answers} == {()}


async def test_a_bomb_is_not_scanned_and_costs_nothing_else(
    scanner: Scanner, tmp_path: Path
) -> None:
    answer = await scan_of(scanner, tmp_path, zipped({"zeros": bytes(32 * MIB)}))
    pid, _ = await living(scanner)
    after = await scan_of(scanner, tmp_path, MALWARE)

    assert "it grows more than 250-fold" in [each.reason for each in answer.result.unscanned]
    assert len(after.result.detections) == 1
    assert (await living(scanner))[0] == pid


@pytest.mark.parametrize("size", [MIB + 1, 2**42])
async def test_a_file_over_the_limit_is_not_read(
    scanner: Scanner, tmp_path: Path, size: int
) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.write(MALWARE)
        large.truncate(size)

    answer = await scan(scanner, tmp_path / "large")

    assert answer.read == 0
    assert answer.result.sha256 == ""
    assert [(each.where, each.reason) for each in answer.result.unscanned] == [
        (FILE, f"it is larger than {MIB} bytes")
    ]


async def test_a_file_that_is_not_what_it_said_is_told_and_scanned(scanner: Scanner) -> None:
    """Of the kernel's: it says that it has no bytes, as one that grows would have said."""
    answer = await scan(scanner, Path("/proc/self/status"))

    assert answer.read > 0
    assert [each.reason for each in answer.result.unscanned] == ["it changed while it was read"]


async def test_a_file_without_end_is_read_up_to_the_limit(scanner: Scanner) -> None:
    """A device, which the walk would not give: the process does not rely on it."""
    answer = await scan(scanner, Path("/dev/zero"))

    assert [each.reason for each in answer.result.unscanned] == [f"it is larger than {MIB} bytes"]


async def test_a_file_that_cannot_be_read_is_told(scanner: Scanner, tmp_path: Path) -> None:
    answer = await scan(scanner, tmp_path)  # a folder

    assert [each.reason for each in answer.result.unscanned] == ["reading failed: Is a directory"]


async def test_a_process_that_ended_costs_one_file(scanner: Scanner, tmp_path: Path) -> None:
    pid, _ = await living(scanner)
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(ScannerError, match=r"the scanner ended \(SIGKILL\)"):
        await scan_of(scanner, tmp_path, MALWARE)
    answer = await scan_of(scanner, tmp_path, MALWARE)

    assert len(answer.result.detections) == 1


async def test_a_process_that_hangs_costs_one_file_and_is_ended(tmp_path: Path) -> None:
    scanner = Scanner(replace(JOB, per_file=0.5))
    hung, _ = await living(scanner)
    os.kill(hung, signal.SIGSTOP)

    with pytest.raises(ScannerError, match=r"more than 0\.5 s"):
        await scan_of(scanner, tmp_path, b"x")

    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    await scanner.stop()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b'{"number": 99}', id="of another file"),
        pytest.param(b"{}", id="nonsense, which ends it"),
    ],
)
async def test_an_answer_that_is_not_ours_is_not_believed(
    scanner: Scanner, tmp_path: Path, message: bytes
) -> None:
    _, end = await living(scanner)
    with tempfile.TemporaryFile() as clean:
        socket.send_fds(end, [message], [clean.fileno()])

    with pytest.raises(ScannerError):
        await scan_of(scanner, tmp_path, MALWARE)


async def test_the_process_is_limited_by_the_kernel(scanner: Scanner, tmp_path: Path) -> None:
    await scan_of(scanner, tmp_path, b"x")
    pid, _ = await living(scanner)
    lines = proc(pid, "limits").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split() for line in lines}

    assert int(limits["Max address space"][1]) < 2 * 1024 * MIB
    assert int(limits["Max cpu time"][0]) < 60
    assert limits["Max file size"][:2] == limits["Max core file size"][:2] == ["0", "0"]
    held = [each.name for each in proc(pid, "fd").iterdir()]
    assert int(limits["Max open files"][1]) <= max(map(int, held)) + 16
    assert "NoNewPrivs:\t1" in proc(pid, "status").read_text()


async def test_no_thread_is_older_than_the_door() -> None:
    scanner = Scanner(JOB)
    await scanner.start()
    try:
        pid, _ = await living(scanner)
        # One that has ended may be listed for a moment more.
        async with asyncio.timeout(10):
            while len(list(proc(pid, "task").iterdir())) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await scanner.stop()


def test_a_process_behind_the_door_opens_nothing() -> None:
    program = (
        "import os\n"
        "from webguard.host import bind_to_parent\n"
        "from webguard.daemon.scanning import close_the_door\n"
        "held = os.open('/etc/passwd', os.O_RDONLY)\n"
        "bind_to_parent(os.getppid())\n"
        "print(close_the_door())\n"
        "try: os.open('/etc/passwd', os.O_RDONLY); print('open')\n"
        "except PermissionError: print('shut')\n"
        "print(len(os.read(held, 1)))\n"
    )
    argv = [sys.executable, "-P", "-c", program]
    said = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=60).stdout

    closed, door, read = said.split()
    if closed == "False":
        pytest.skip("this kernel has no Landlock")
    assert (door, read) == ("shut", "1")


async def test_rules_that_cannot_be_used_are_the_operators_to_mend() -> None:
    scanner = Scanner(replace(JOB, rules=b"garbage"))

    with pytest.raises(HostError, match="compile them"):
        await scanner.start()
    await scanner.stop()
