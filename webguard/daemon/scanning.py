"""webguard-scan: the unprivileged process that reads and scans one file after the other.

It is handed open files and opens none: by its user it may open nothing worth
reading, by Landlock (where the kernel has it) nothing at all. Its one socket is
the channel that it inherits. Memory, processor time, descriptors and what it
may write are limited by the kernel. When a file ends it, that costs this file.

One packet of the channel is one message, in JSON. This side takes the word of
the other, which has the rights; `webguard.daemon.ondemand` validates ours. So
nothing is imported for it, and a process that a file has ended is soon replaced.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
from dataclasses import asdict

from webguard.daemon.confine import confine, give_up_paths
from webguard.errors import WebguardError
from webguard.host import bind_to_parent
from webguard.model import ENGINE, ScanResult, Unscanned
from webguard.scan.archive import Bounds, Unpacker, library
from webguard.scan.engine import Engine
from webguard.scan.hashes import Hashes

LARGEST = 64 * 1024
"""Bytes in one message."""

FILE = "file"
"""`Unscanned.where` when it is about the file, not about something inside it."""

# Interpreter, YARA-X's compiled code and one decoding thread: 360 MiB of addresses, measured.
_MEMORY = 768 * 1024**2
# Of a file's size: its bytes while they are joined, what it decodes to (`Limits.output`), and
# as much for each of the archives that are in one another.
_MEMORY_PER_BYTE = 6 + Bounds().depth
_MEMORY_PER_BYTE_OF_RULES = 8
_SPARE_DESCRIPTORS = 4

_EVERYTHING = 0x1FFF  # all that can be done with a path, as Landlock's first version knows it


def serve(end: socket.socket, engine: Engine, *, largest: int, seconds: int) -> None:
    """Scan what comes through `end` until it is closed."""
    # The decoding thread ends with its runner: the door is closed for the thread that closes
    # it and for those that it starts afterwards, but for no older one.
    with asyncio.Runner() as rehearsal:
        rehearsal.run(engine.load())
    unpacker = Unpacker(engine, library(), Bounds(member=largest, seconds=seconds))
    close_the_door()
    with asyncio.Runner() as runner:
        _say_ready(end)
        while True:
            data, descriptors, _flags, _address = socket.recv_fds(end, LARGEST, 1)
            if not data:
                return
            number = json.loads(data)["number"]
            allow(2 * seconds)  # for what it decodes to, and for what is packed in that
            with contextlib.ExitStack() as closing:
                for each in descriptors:
                    closing.callback(os.close, each)
                content, problem = _read(descriptors[0], largest)
            result = runner.run(unpacker.scan(content, "")) if content is not None else ScanResult()
            if problem:
                more = Unscanned(where=FILE, reason=problem)
                result = ScanResult(
                    detections=result.detections,
                    unscanned=(*result.unscanned, more),
                    sha256=result.sha256,
                )
            _answer(end, number, len(content or b""), result)


def _answer(end: socket.socket, number: int, read: int, result: ScanResult) -> None:
    data = _message(number, read, result)
    if len(data) > LARGEST:  # rules may have names of any length
        short = ScanResult(
            detections=result.detections[:1],
            unscanned=(Unscanned(where=ENGINE, reason="the answer is too long"),),
            sha256=result.sha256,
        )
        data = _message(number, read, short)
    end.send(data)


def _message(number: int, read: int, result: ScanResult) -> bytes:
    whole = {"type": "answer", "number": number, "read": read, "result": asdict(result)}
    return json.dumps(whole).encode()


def _say_ready(end: socket.socket, problem: str = "") -> None:
    end.send(json.dumps({"type": "ready", "problem": problem[:2000]}).encode())


def _read(descriptor: int, largest: int) -> tuple[bytes | None, str]:
    """Return the file's content (None: not read) and why it is not the whole truth ("": it is)."""
    too_large = f"it is larger than {largest} bytes"
    try:
        before = os.fstat(descriptor)
        # A sparse file says terabytes and takes as long to read as if they were there.
        if before.st_size > largest:
            return None, too_large
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(before.st_size + 1)
            if len(content) > before.st_size:
                content += file.read(largest + 1 - len(content))
        after = os.fstat(descriptor)
    except OSError as error:
        return None, f"reading failed: {error.strerror}"
    if len(content) > largest:
        return None, too_large
    if _state(before) != _state(after) or len(content) != after.st_size:
        return content, "it changed while it was read"
    return content, ""


def _state(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def limit(largest: int, rules: int, highest: int) -> None:
    """Have the kernel bound what this process may use."""
    memory = _MEMORY + _MEMORY_PER_BYTE * largest + _MEMORY_PER_BYTE_OF_RULES * rules
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # asyncio has three of its own.
    most = highest + 1 + 3 + _SPARE_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def allow(seconds: int) -> None:
    """Allow so much processor time from now on; beyond it the kernel ends us (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soon = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soon, resource.RLIM_INFINITY))


def close_the_door() -> bool:
    """Open no path from now on, and return whether the kernel enforces it (Landlock, Linux 5.13).

    Needs PR_SET_NO_NEW_PRIVS, which `bind_to_parent` sets.
    """
    return give_up_paths(_EVERYTHING)


def whole(descriptor: int) -> bytes:
    """Return all of a sealed memory file, and close it."""
    # By position: the offset is shared with the other processes that were given the same file.
    with os.fdopen(descriptor, "rb"):
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def main() -> None:
    """Run as `python -P -m webguard.daemon.scanning`, by `webguard scan` only."""
    parser = argparse.ArgumentParser(prog="webguard-scan")
    for name in ("parent", "channel", "rules", "hashes", "largest", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    bind_to_parent(arguments.parent)
    confine()
    end = socket.socket(fileno=arguments.channel)
    highest = max(arguments.channel, arguments.rules, arguments.hashes)
    rules = whole(arguments.rules)
    lists = json.loads(whole(arguments.hashes))
    limit(arguments.largest, len(rules), highest)
    try:
        engine = Engine(
            rules,
            timeout=arguments.seconds,
            hashes=Hashes(lists),
        )
    except WebguardError as error:
        _say_ready(end, str(error))
        raise SystemExit(1) from error
    # The other side may be gone by the time that we have something to say.
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        serve(end, engine, largest=arguments.largest, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
