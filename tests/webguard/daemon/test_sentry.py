"""The sentry's connections on real sockets, and what it removes in the end."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webguard.daemon import sentry

HOME = "/proc/no-such-cgroup"


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        yield server


@pytest.mark.parametrize(
    ("reset", "ends"),
    [
        # The reset may come before we have looked whether we are connected.
        pytest.param(True, {"connected", os.strerror(104)}, id="reset, by a worker of ours"),
        pytest.param(False, {sentry.ANOTHERS}, id="closed, by another daemon's"),
    ],
)
def test_a_connection_that_is_ended_at_once_was_answered(
    listening: socket.socket, reset: bool, ends: set[str]
) -> None:
    peers = []

    def accept() -> None:
        connection, peer = listening.accept()
        peers.append(peer[1])
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()

    worker = threading.Thread(target=accept)
    worker.start()
    host, port = listening.getsockname()[:2]
    said = sentry.probe(host, port, timeout=5)
    worker.join()
    assert (said["port"], said["ended"] in ends) == (peers[0], True), said


def test_a_listener_that_hangs_is_told_apart(listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    said = sentry.probe(host, port, timeout=0.05)
    assert said["ended"] == "connected, then silence"
    assert said["port"] > 0


def test_nobody_who_listens_is_an_answer(listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    listening.close()
    assert sentry.probe(host, port, timeout=5)["ended"] == os.strerror(111)


def test_an_address_without_a_route_is_an_answer() -> None:
    said = sentry.probe("not an address", 80, timeout=0.05)
    assert said["port"] == 0
    assert said["ended"]


def test_files_go_and_then_their_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").touch()
    sentry.tidy(HOME, [str(folder / "a"), str(folder / "missing")], [str(folder), HOME])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_use_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").touch()
    sentry.tidy(HOME, [], [str(tmp_path / "run")])
    assert (tmp_path / "run" / "other").exists()


@pytest.mark.parametrize("goodbye", [True, False], ids=["a goodbye", "the daemon's death"])
def test_only_death_makes_it_remove_things(tmp_path: Path, goodbye: bool) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "later").mkdir()
    task = {"home": HOME, "unlink": [str(tmp_path / "file")], "rmdir": []}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    argv = [sys.executable, "-I", "-S", sentry.__file__, str(theirs.fileno()), json.dumps(task)]
    # The socket is closed first: its end is what the process waits for.
    with theirs, subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as process, ours:
        theirs.close()
        # There is no such cgroup; what is to be removed with it is remembered all the same.
        said = ask(ours, {"enter": HOME, "rmdir": [str(tmp_path / "later")], "number": 1})
        assert (said["number"], said["ready"]) == (1, False)
        said = ask(ours, {"host": "127.0.0.1", "port": 1, "timeout": 1, "number": 2})
        assert said["number"] == 2
        if goodbye:
            ours.send(b'{"goodbye": true}')
        ours.close()
        assert process.wait(20) == 0
    assert bool(list(tmp_path.iterdir())) == goodbye


def ask(end: socket.socket, question: dict[str, Any]) -> dict[str, Any]:
    end.send(json.dumps(question).encode())
    answer: dict[str, Any] = json.loads(end.recv(4096))
    return answer
