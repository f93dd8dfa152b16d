"""webguard-scan as the daemon runs it: scans what is packed in the bodies that workers hold.

It is confined as `webguard.daemon.scanning` is, which lends it the means. Workers hand
it sealed memory files, each over a channel of its own, and it answers there. It works
on one at a time and takes one of each worker in turn. What ends it, or keeps it longer
than it may, costs that body's archive: the worker waits no longer than
`archives.PATIENCE`, and the daemon starts another.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import asdict

from webguard.daemon import scanning
from webguard.daemon.confine import confine
from webguard.errors import WebguardError
from webguard.host import bind_to_parent
from webguard.model import ScanResult, Unscanned
from webguard.scan.archive import ARCHIVE, Bounds, Unpacker, library
from webguard.scan.engine import Engine
from webguard.scan.hashes import Hashes

SECONDS = 6
"""For all that is packed in one body. Less than a worker's patience, so that it gets an answer."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE


def serve(
    daemon: socket.socket, workers: Sequence[socket.socket], engine: Engine, largest: int
) -> None:
    """Scan what workers send until the daemon is gone, or says that a successor is to come."""
    # As in `scanning.serve`: no thread may be older than the closed door.
    with asyncio.Runner() as rehearsal:
        rehearsal.run(engine.load())
    unpacker = Unpacker(engine, library(), Bounds(member=largest, seconds=SECONDS))
    scanning.close_the_door()
    poll = select.poll()
    for each in (daemon, *workers):
        poll.register(each, select.POLLIN)
    with asyncio.Runner() as runner:
        _say(daemon, {"type": "ready"})
        turn = list(workers)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            # Before each archive: who works on many must not seem to hang.
            if daemon.fileno() in ready:
                said = daemon.recv(scanning.LARGEST)
                if not said or json.loads(said)["type"] == "drain":
                    return
                _say(daemon, {"type": "ready"})  # we are asked whether we are there
                continue
            worker = next(each for each in turn if each.fileno() in ready)
            turn.remove(worker)
            turn.append(worker)
            _serve_one(worker, unpacker, runner, largest)


def _serve_one(
    worker: socket.socket, unpacker: Unpacker, runner: asyncio.Runner, largest: int
) -> None:
    data, descriptors, _flags, _address = socket.recv_fds(worker, scanning.LARGEST, 1)
    with contextlib.ExitStack() as closing:
        for each in descriptors:
            closing.callback(os.close, each)
        # Workers read hostile traffic: what is no question of theirs gets no answer.
        try:
            number = int(json.loads(data)["number"])
            (descriptor,) = descriptors
            # Anything but a sealed memory file may change or hang while it is read.
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except (ValueError, TypeError, KeyError, OSError):
            return
        if not sealed:
            return
        scanning.allow(2 * SECONDS)
        size = os.fstat(descriptor).st_size
        # By position: the worker's offset is ours, and stands at the end.
        content = os.pread(descriptor, size, 0) if size <= largest else None
    if content is None:
        reason = f"it is larger than {largest} bytes"
        result = ScanResult(unscanned=(Unscanned(where=ARCHIVE, reason=reason),))
    else:
        result = runner.run(unpacker.unpack(content))
    answer = {"type": "unpacked", "number": number, "result": asdict(result)}
    if len(json.dumps(answer)) > scanning.LARGEST:  # rules may have names of any length
        cut = Unscanned(where=ARCHIVE, reason="the answer is too long")
        short = ScanResult(detections=result.detections[:1], unscanned=(cut,))
        answer["result"] = asdict(short)
    _say(worker, answer)


def _say(end: socket.socket, message: dict[str, object]) -> None:
    # Who does not read gets no answer, and keeps nobody else from theirs.
    with contextlib.suppress(OSError):
        end.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def main() -> None:
    """Run as `python -P -m webguard.daemon.unpacking`, by the supervisor only."""
    parser = argparse.ArgumentParser(prog="webguard-scan")
    for name in ("parent", "daemon", "rules", "hashes", "largest"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--worker", type=int, action="append", required=True)
    arguments = parser.parse_args()
    bind_to_parent(arguments.parent)
    confine()
    highest = max(arguments.daemon, arguments.rules, arguments.hashes, *arguments.worker)
    daemon = socket.socket(fileno=arguments.daemon)
    workers = [socket.socket(fileno=each) for each in arguments.worker]
    rules = scanning.whole(arguments.rules)
    lists = json.loads(scanning.whole(arguments.hashes))
    scanning.limit(arguments.largest, len(rules), highest)
    try:
        engine = Engine(rules, hashes=Hashes(lists))
    except WebguardError as error:
        _say(daemon, {"type": "failed", "message": str(error)[:4000]})
        raise SystemExit(1) from error
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        serve(daemon, workers, engine, arguments.largest)


if __name__ == "__main__":
    main()
