"""`make run` itself: says what is protected, and Ctrl-C leaves the host as it found it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.system.host.testhost import TestHost
from tests.system.product import wait_until

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]


def test_make_run_protects_without_docker_and_ctrl_c_leaves_the_host_as_it_was(
    host: TestHost, webguard_installed: Path
) -> None:
    before = host.snapshot()
    said = host.folder / "make-run.log"
    with said.open("wb") as log:
        process = host.spawn(
            ["make", "-C", CHECKOUT, "run", "ARGS="],
            # As the suite was called: its pip configuration and its choice of interpreter.
            environment={**os.environ, "PYTHONSAFEPATH": ""},
            stdout=subprocess.DEVNULL,
            stderr=log.fileno(),
        )
        try:
            wait_until(
                lambda: "Not covered:" in said.read_text() or process.poll() is not None,
                timeout=120,
            )
            assert "PROTECTED: " in said.read_text()
            assert "Containers inspected: 0" in said.read_text()
            # make's recipe is replaced by webguard, which gets the terminal's signal itself.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                subprocess.run(["kill", f"-{int(signal.SIGINT)}", child], check=True)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()

    assert "What stays, until `webguard purge`" in said.read_text()
    assert host.path("/etc/webguard/webguard.yaml").exists()
    assert host.snapshot() - before == []
