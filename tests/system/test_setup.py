"""Placing webguard on a host: users, and an interpreter that they can run and nobody can change."""

import subprocess
from pathlib import Path

import pytest

from tests.system.host.testhost import TestHost, open_host

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]
SETUP = CHECKOUT / "deploy" / "setup"
USERS = ["getent", "passwd", "webguard-proxy", "webguard-signer", "webguard-scan"]


@pytest.mark.parametrize(
    ("change", "fit"),
    [
        pytest.param("true", True, id="root's own"),
        pytest.param("chmod 775 bin/python", False, id="a group may write it"),
        pytest.param("chmod 757 bin", False, id="others may replace it"),
        pytest.param("chmod 1757 bin", True, id="in a sticky folder nobody may replace it"),
        pytest.param("chown nobody bin/python", False, id="somebody owns it"),
        pytest.param("chown nobody bin", False, id="somebody owns its folder"),
        pytest.param("chmod 700 .", False, id="under a private home"),
        pytest.param("printf '#!/bin/sh\\nexit 1\\n' > bin/python", False, id="it does not run"),
        pytest.param("mv bin/python x; ln -s ../x bin/python; chmod 775 x", False, id="a link"),
    ],
)
def test_an_interpreter_is_fit_only_if_services_can_run_it_and_root_alone_can_write_it(
    host: TestHost, webguard_installed: Path, change: str, fit: bool
) -> None:
    prepare = "rm -rf /opt/home && mkdir -p /opt/home/bin && cd /opt/home && "
    prepare += "printf '#!/bin/sh\\nexit 0\\n' > bin/python && chmod 755 bin/python && "
    host.run(["sh", "-c", prepare + change])

    done = host.run([SETUP / "fit", "/opt/home/bin/python"], check=False)

    assert (done.code == 0) == fit


def test_users_are_made_once_without_shell_home_or_the_operators_group(
    host: TestHost, webguard_installed: Path
) -> None:
    before = host.run(USERS).out

    again = host.run([SETUP / "users"])

    assert again.err == ""
    assert host.run(USERS).out == before
    assert before.count(":/nonexistent:/usr/sbin/nologin\n") == len(USERS) - 2
    assert host.run(["getent", "group", "webguard"]).out.strip().endswith(":")
    for user in ("webguard-proxy", "webguard-signer", "webguard-scan"):
        assert host.run(["id", "-nG", user]).out.split() == [user]


def test_users_go_when_asked() -> None:
    # A host of its own: the uids may be others afterwards, and other tests have files by them.
    with open_host() as host:
        host.run([SETUP / "users"])
        made = host.run(USERS).out
        host.run([SETUP / "users", "--remove"])
        gone = host.run(USERS, check=False).out
        groups = host.run(["getent", "group"]).out
        again = host.run([SETUP / "users", "--remove"])

    assert made.count("\n") == len(USERS) - 2
    assert gone == ""
    assert "webguard" not in groups
    assert again.err == ""


def test_placing_again_does_nothing(host: TestHost, webguard_installed: Path) -> None:
    def written() -> list[str]:
        every = ["find", "/opt/webguard", "!", "-name", ".lock", "-printf", "%p %T@\n"]
        return sorted(host.run(every).out.splitlines())

    before = written()
    host.place_product(CHECKOUT)

    assert written() == before


def test_all_that_is_placed_is_roots_and_readable_by_everybody(
    host: TestHost, webguard_installed: Path
) -> None:
    wrong = ["(", "!", "-user", "root", "-o", "-perm", "/022", "-o", "!", "-perm", "-444", ")"]

    found = host.run(["find", "/opt/webguard", "!", "-type", "l", *wrong])

    assert found.out == ""


def test_the_machine_has_none_of_it(webguard_installed: Path) -> None:
    # Unless an operator installed webguard here, whom this suite must leave alone.
    if Path("/opt/webguard").exists():
        pytest.skip("this machine has its own webguard")
    assert subprocess.run(USERS, capture_output=True).stdout == b""
