"""What the daemon's answers, and its silence, mean for the caller."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from webguard.cli.ask import ask
from webguard.errors import (
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
    UnreachableError,
    WebguardError,
)


@contextmanager
def daemon(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Answers one request with these bytes."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)
                # Read on: what is unread when a socket closes resets the connection.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        yield asked
        serving.join()


def http(status: int, body: object) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)


def test_an_answer_is_returned(tmp_path: Path) -> None:
    with daemon(tmp_path / "s", http(200, {"protected": True})) as asked:
        assert ask(tmp_path / "s", "/v1/status") == {"protected": True}
    assert asked[0].startswith(b"GET /v1/status ")


def test_a_question_with_a_body_is_posted(tmp_path: Path) -> None:
    with daemon(tmp_path / "s", http(200, {})) as asked:
        ask(tmp_path / "s", "/v1/cert/install", {"all": True})
    assert asked[0].startswith(b"POST /v1/cert/install ")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, RefusedError),
        (2, ConfigError),
        (3, NotFoundError),
        (77, PermissionDeniedError),
        (99, RefusedError),
    ],
)
def test_the_daemons_error_is_ours(tmp_path: Path, code: int, kind: type[WebguardError]) -> None:
    said = http(400, {"exit_code": code, "error": "no (do this)"})
    with daemon(tmp_path / "s", said), pytest.raises(kind, match=r"no \(do this\)"):
        ask(tmp_path / "s", "/v1/status")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nnot json", id="no JSON"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", id="too short"),
    ],
)
def test_an_answer_that_makes_no_sense_is_none(tmp_path: Path, answer: bytes) -> None:
    with daemon(tmp_path / "s", answer), pytest.raises(UnreachableError, match="webguard run"):
        ask(tmp_path / "s", "/v1/status")


def test_a_daemon_that_goes_while_it_is_asked_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken pipe of our output is no error; this one must be."""
    ours, other = socket.socketpair()
    other.close()
    monkeypatch.setattr("webguard.cli.ask._Unix.connect", lambda self: setattr(self, "sock", ours))
    with pytest.raises(UnreachableError, match="webguard run"):
        ask(tmp_path / "s", "/v1/isolation/on", {"reason": ""})


def test_without_a_daemon_the_remedy_is_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="webguard run"):
        ask(tmp_path / "missing", "/v1/status")
