"""Fixtures of the system tests: one test host for the whole run (see tests/system/host)."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host import images
from tests.system.host.docker import Docker
from tests.system.host.origin import Origin
from tests.system.host.testhost import TestHost, open_host

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def host() -> Iterator[TestHost]:
    if os.geteuid() != 0:
        pytest.fail("system tests need root: run `make system` as root or with sudo")
    with open_host(placed_dependencies()) as made:
        yield made


@pytest.fixture
def origin(host: TestHost) -> Origin:
    """The host's origin, with an empty log and nothing served."""
    host.origin.forget()
    return host.origin


@pytest.fixture(scope="session")
def docker(host: TestHost) -> Docker:
    return host.docker


@pytest.fixture(scope="session")
def webguard_installed(host: TestHost) -> Path:
    """Webguard as an operator gets it, in the host alone: the path of its program."""
    host.place_product(CHECKOUT)
    return Path("/opt/webguard/venv/bin/webguard")


def placed_dependencies() -> Path:
    """/opt/webguard without webguard, made once and kept: nothing of it depends on the sources."""
    setup = CHECKOUT / "deploy" / "setup"
    chosen = subprocess.run([setup / "python"], capture_output=True, check=True, timeout=600).stdout
    recipe = [
        chosen,
        *(
            (setup / n).read_bytes()
            for n in ("runtime.lock", "place", "fit", "relocate.py", "lib.sh")
        ),
    ]
    key = hashlib.sha256(b"\0".join(recipe)).hexdigest()[:16]
    with images.making(f"opt-{key}") as (kept, scratch):
        if scratch is not None:
            with open_host() as throwaway:
                throwaway.place_product(CHECKOUT, "--dependencies")
                subprocess.run(
                    ["cp", "-a", throwaway.path("/opt/webguard"), scratch], check=True, timeout=120
                )
    return kept
