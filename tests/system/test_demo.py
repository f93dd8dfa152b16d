"""`make demo` shows what it promises, and leaves nothing behind."""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

DEMO = Path(__file__).parents[2] / "deploy" / "demo" / "run"


def test_the_demo_shows_content_blocked_and_a_container_that_trusts_us() -> None:
    done = subprocess.run([DEMO], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    before, _, after = done.stdout.partition("webguard cert install shop")
    assert "PROTECTED: " in before
    assert "certificate problem" in before
    assert "https://good.test/clean\n  a clean page" in after
    assert "shop: trusted" in after
    assert done.stdout.count("Blocked by Webguard") == 3
    assert "EICAR-STANDARD" not in done.stdout
