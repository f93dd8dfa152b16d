"""The units as they are read, and what is installed where no systemd runs."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.system.host.machine import named
from tests.system.host.testhost import TestHost

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]
UNITS = CHECKOUT / "deploy" / "systemd"
EXPOSURE = {"webguard.service": 4.0, "webguard-boot.service": 2.0}


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on this machine")


def test_every_unit_is_rated() -> None:
    assert {each.name for each in UNITS.glob("*.service")} == set(EXPOSURE)


@pytest.mark.parametrize("unit", EXPOSURE)
def test_a_unit_is_exposed_no_more_than_it_must(unit: str, host: TestHost) -> None:
    needs("systemd-analyze")

    rated = host.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / unit]
    ).out

    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", rated)
    assert float(exposure) <= EXPOSURE[unit], rated


def test_systemd_understands_every_line_of_the_units(
    host: TestHost, webguard_installed: Path
) -> None:
    needs("systemd-analyze")

    done = host.run(
        ["systemd-analyze", "verify", "--man=no", *(UNITS / each for each in EXPOSURE)],
        check=False,
    )

    ours = [each for each in done.err.splitlines() if "webguard" in each]
    assert ours == []


def test_users_and_folders_are_made_from_their_descriptions(host: TestHost, tmp_path: Path) -> None:
    needs("systemd-sysusers")
    needs("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"

    host.run(["systemd-sysusers", root, UNITS / "sysusers.d" / "webguard.conf"])
    host.run(["systemd-tmpfiles", root, "--create", UNITS / "tmpfiles.d" / "webguard.conf"])

    users = named(tmp_path / "etc/passwd")
    assert {"webguard-proxy", "webguard-signer", "webguard-scan"} <= users.keys()
    assert "webguard" in named(tmp_path / "etc/group")
    key = (tmp_path / "var/lib/webguard/ca").stat()
    assert (key.st_uid, key.st_mode & 0o7777) == (int(users["webguard-signer"][2]), 0o700)
    assert (tmp_path / "etc/webguard/policy.d").is_dir()


def test_installing_without_systemd_places_all_and_says_how_to_start(
    host: TestHost, webguard_installed: Path
) -> None:
    kept = host.folder / "usr"
    kept.mkdir(exist_ok=True)
    script = f"""
mount -t tmpfs tmpfs {kept} && mkdir {kept}/upper {kept}/work
mount -t overlay overlay -o lowerdir=/usr,upperdir={kept}/upper,workdir={kept}/work /usr
make --silent --directory={CHECKOUT} install
find {kept}/upper -name 'webguard*' -type f
"""

    done = host.run(
        ["unshare", "--mount", "sh", "-ec", script],
        timeout=300,
        environment={**os.environ, "PYTHONSAFEPATH": ""},
    )

    assert "systemd does not run here" in done.err
    assert "systemctl enable --now webguard-boot.service webguard.service" in done.err
    placed = {each.removeprefix(f"{kept}/upper/lib/") for each in done.out.splitlines()}
    assert placed == {
        *(f"systemd/system/{unit}" for unit in EXPOSURE),
        "sysusers.d/webguard.conf",
        "tmpfiles.d/webguard.conf",
    }
