"""`webguard events`: asks for what was wanted, and prints the lines as they come."""

import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import override
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from typer.testing import CliRunner, Result

from webguard.cli.context import Context
from webguard.cli.events import events
from webguard.daemon.paths import Paths

LINES = b'{"kind":"web.blocked"}\n{"subject":"a\xff"}\n'


class Daemon(socketserver.ThreadingUnixStreamServer):
    """Answers every question with the same lines, and remembers the questions."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        super().__init__(str(path), _Answer)


class _Answer(http.server.BaseHTTPRequestHandler):
    @override
    def address_string(self) -> str:
        return "unix"

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        assert isinstance(self.server, Daemon)
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(LINES)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    paths = Paths(root=tmp_path)
    paths.run.mkdir(parents=True)
    with Daemon(paths.control) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def webguard(root: Path, *argv: str) -> Result:
    app = typer.Typer()
    app.command()(events)
    return CliRunner().invoke(app, argv, obj=Context(Paths(root=root)))


def test_lines_are_printed_as_they_came_and_bad_bytes_harm_nobody(
    daemon: Daemon, tmp_path: Path
) -> None:
    result = webguard(tmp_path)
    assert result.exit_code == 0
    assert result.output == '{"kind":"web.blocked"}\n{"subject":"a\\xff"}\n'


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        pytest.param(
            (), {"format": ["json"], "follow": ["false"], "limit": ["100"]}, id="the defaults"
        ),
        pytest.param(
            ("--follow", "--format", "eset13", "-n", "7"),
            {"format": ["eset13"], "follow": ["true"], "limit": ["7"]},
            id="following",
        ),
        pytest.param(
            ("--kind", "web.blocked", "--kind", "loss", "--container", "a&follow=true"),
            {
                "format": ["json"],
                "follow": ["false"],
                "limit": ["100"],
                "kind": ["web.blocked", "loss"],
                "container": ["a&follow=true"],
            },
            id="only some",
        ),
        pytest.param(
            ("--format", "eset12", "--json"),
            {"format": ["json"], "follow": ["false"], "limit": ["100"]},
            id="json wins",
        ),
    ],
)
def test_what_was_wanted_is_asked_for(
    daemon: Daemon, tmp_path: Path, argv: tuple[str, ...], asked: dict[str, list[str]]
) -> None:
    webguard(tmp_path, *argv)
    (path,) = daemon.asked
    assert urlsplit(path).path == "/v1/events"
    assert parse_qs(urlsplit(path).query) == asked


@pytest.mark.parametrize("argv", [("-n", "-1"), ("-n", "1000001"), ("--format", "cef")])
def test_what_makes_no_sense_is_refused(daemon: Daemon, tmp_path: Path, argv: tuple[str]) -> None:
    assert webguard(tmp_path, *argv).exit_code == 2
    assert daemon.asked == []
