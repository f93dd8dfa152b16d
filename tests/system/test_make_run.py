"""`make run` itself: says what is protected, and Ctrl-C leaves the host as it found it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import placed_dependencies
from tests.system.host.testhost import open_host
from tests.system.product import wait_until

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]


def test_make_run_protects_without_docker_and_ctrl_c_leaves_the_host_as_it_was() -> None:
    # A host of its own: of the others one may have an engine by now, and settings.
    with open_host(placed_dependencies()) as host:
        assert not host.path("/run/docker.sock").exists()
        assert not host.path("/etc/webguard/webguard.yaml").exists()
        before = host.snapshot()
        said = host.folder / "make-run.log"
        with said.open("wb") as log:
            process = host.spawn(
                # As on a terminal: a process group of its own, which gets the signal.
                ["setsid", "make", "-C", CHECKOUT, "run", "ARGS="],
                # As the suite was called: its pip configuration and its choice of interpreter.
                environment={**os.environ, "PYTHONSAFEPATH": ""},
                stdout=subprocess.DEVNULL,
                stderr=log.fileno(),
            )
        try:
            wait_until(
                lambda: "Ctrl-C ends it" in said.read_text() or process.poll() is not None,
                timeout=120,
            )
            assert "PROTECTED: " in said.read_text()
            assert "Containers inspected: 0" in said.read_text()
            assert "Not covered:" in said.read_text()
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
            # make does not wait for the end of what it ran.
            wait_until(lambda: "What stays, until `webguard purge`" in said.read_text(), 30)
            wait_until(lambda: host.snapshot() - before == [], 30)
        finally:
            process.kill()
            process.wait()
        assert host.path("/etc/webguard/webguard.yaml").exists()
