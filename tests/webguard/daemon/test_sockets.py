"""A socket that a dead daemon left is no daemon, and is replaced with a word."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from webguard.daemon.sockets import held, make_room

KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]


@pytest.fixture(params=KINDS, ids=["control", "handover"])
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A socket as a daemon's."""
    with socket.socket(socket.AF_UNIX, request.param) as ours:
        ours.bind(str(tmp_path / "s"))
        ours.listen()
        ours.settimeout(0)
        yield ours


def test_a_living_daemons_socket_is_held_and_nobody_is_disturbed(
    bound: socket.socket, tmp_path: Path
) -> None:
    assert held(tmp_path / "s")
    with pytest.raises(BlockingIOError):
        bound.accept()


def test_a_dead_daemons_socket_is_held_by_nobody(bound: socket.socket, tmp_path: Path) -> None:
    bound.close()
    assert not held(tmp_path / "s")


def test_nothing_is_held_by_nobody(tmp_path: Path) -> None:
    assert not held(tmp_path / "s")


def test_what_a_dead_daemon_left_is_replaced_with_a_word(
    bound: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bound.close()
    make_room(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert str(tmp_path / "s") in caplog.text


def test_a_predecessors_is_replaced_without_one(
    bound: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_room(tmp_path / "s")
    make_room(tmp_path / "s")  # as when there is none
    assert not (tmp_path / "s").exists()
    assert caplog.text == ""
