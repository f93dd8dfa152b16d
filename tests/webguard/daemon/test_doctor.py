"""`webguard doctor`: what it takes for a running daemon, and whose settings it checks."""

import socket
from pathlib import Path

import pytest

from webguard.daemon import doctor
from webguard.daemon.paths import Paths
from webguard.policy.config import Config, Web


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(root=tmp_path)
    found.run.mkdir(parents=True)
    return found


def checks(paths: Paths, port: int) -> dict[str, str]:
    config = Config(web=Web(listen_port=port))
    return {each.check: each.standing for each in doctor._port(paths, config)}


def test_a_dead_daemons_socket_does_not_hide_a_busy_port(paths: Paths) -> None:
    with (
        socket.socket(socket.AF_UNIX) as dead,
        socket.create_server(("127.0.0.1", 0)) as busy,
    ):
        dead.bind(str(paths.control))
        dead.close()
        port = busy.getsockname()[1]
        assert checks(paths, port) == {"daemon": "note", f"port {port}": "fail"}


def test_a_running_daemon_may_have_its_port(paths: Paths) -> None:
    with (
        socket.socket(socket.AF_UNIX) as living,
        socket.create_server(("127.0.0.1", 0)) as busy,
    ):
        living.bind(str(paths.control))
        living.listen()
        assert checks(paths, busy.getsockname()[1]) == {"daemon": "ok"}


def test_the_instance_of_the_command_line_is_the_one_that_is_checked(tmp_path: Path) -> None:
    config, _ = doctor._settings(Paths(root=tmp_path, instance="second"))
    assert config.instance == "second"


def test_an_instance_that_the_settings_contradict_is_a_failure(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path, instance="second")
    paths.config.parent.mkdir(parents=True)
    paths.config.write_text("instance: third\n")
    (finding,) = doctor._settings(paths)[1]
    assert finding.standing == "fail"
    assert "--instance second" in finding.reason
