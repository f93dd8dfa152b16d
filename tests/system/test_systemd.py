"""Webguard as a real systemd runs it.

The machine with systemd is made inside the test host (tests/system/host/machine.py).
It is installed there by `make install`, as an operator does it, and purged at the end.
The tests of one machine stand on each other, in the order of the file.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.host.machine import CannotBootError, Machine, booted, named
from tests.system.host.origin import EICAR, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, Done, TestHost
from tests.system.product import wait_until

pytestmark = pytest.mark.system

CHECKOUT = Path(__file__).parents[2]
PROGRAM = "/opt/webguard/venv/bin/webguard"
CONTAINER = "docker/" + "c0ffee" * 10 + "abcd"
RESTART_NEEDED = 6
CAP_DAC_OVERRIDE = 1 << 1
# A first process on a file system of its own, as a runtime starts one.
INIT = """
mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir -p bin old etc/ssl/certs
cp /bin/busybox bin/ && cp /etc/os-release etc/
cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
pivot_root . old && /bin/busybox umount -l /old && exec /bin/busybox sleep 3600
"""
SETTINGS = """\
web: {on_failure: %s, workers: 1, drain: 1}
runtimes: {cgroup_parents: [docker, later]}
"""


@dataclass
class Service:
    """Webguard on the machine with systemd, and a container there."""

    machine: Machine
    box: Cgroup

    def get(self, path: str, cgroup: Cgroup | None = None) -> Done:
        """Ask the origin from the container, or from another cgroup."""
        url = f"http://{ORIGIN_V4}{path}"
        return self.machine.run(
            ["curl", "-sS", "-m", "20", url], cgroup=cgroup or self.box, check=False
        )

    def systemctl(self, *words: str, check: bool = True) -> str:
        return self.machine.run(["systemctl", *words], check=check, timeout=150).out.strip()

    def property(self, name: str, unit: str = "webguard.service") -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def webguard(self, *words: str, check: bool = True) -> Done:
        return self.machine.run([PROGRAM, *words], check=check)

    def protected(self) -> bool:
        return self.webguard("status", check=False).code == 0

    def children(self) -> list[int]:
        """The pids of all that the unit started, as this process sees them, with the sentry's."""
        own = self.machine.cgroup.path
        folders = [own / "system.slice" / "webguard.service", *own.glob("webguard-selftest-*")]
        pids = [pid for each in folders for pid in (each / "cgroup.procs").read_text().split()]
        return [int(pid) for pid in pids if not argv(int(pid)).endswith(f"{PROGRAM} run")]

    def journal(self, unit: str = "webguard.service") -> list[dict[str, Any]]:
        """What the unit's processes have said, oldest first."""
        said = self.machine.run(
            ["journalctl", "--no-pager", "--output=json", f"_SYSTEMD_UNIT={unit}"]
        )
        return [json.loads(line) for line in said.out.splitlines()]

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Priority and event of each line that is one."""
        return [
            (each["PRIORITY"], json.loads(each["MESSAGE"]))
            for each in self.journal()
            if str(each["MESSAGE"]).startswith("{")
        ]

    def left(self) -> list[str]:
        """What a daemon of ours would have on the machine."""
        tables = self.machine.host.run(["nft", "list", "tables"]).out.splitlines()
        run = ["/run/webguard"] if self.machine.path("/run/webguard").exists() else []
        tests = [each.name for each in self.machine.cgroup.path.glob("webguard-*")]
        return [*(each for each in tables if "webguard" in each), *run, *tests]


def argv(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def configure(machine: Machine, on_failure: str) -> None:
    target = machine.path("/etc/webguard/webguard.yaml")
    target.parent.mkdir(exist_ok=True)
    target.write_text(SETTINGS % on_failure)


@pytest.fixture(scope="module")
def machine(host: TestHost, webguard_installed: Path) -> Iterator[Machine]:
    if kernel() < (6, 11):
        pytest.skip("before Linux 6.11 nft counts cgroup levels from outside of a cgroup namespace")
    try:
        with booted(host) as up:
            yield up
    except CannotBootError as error:
        pytest.skip(f"no systemd can be booted here: {error}")


def kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", os.uname().release)[:2]))


def make_install(machine: Machine) -> str:
    """Run it, and return what it said that it did."""
    environment = {**os.environ, "PYTHONSAFEPATH": ""}
    command = ["make", "--silent", f"--directory={CHECKOUT}", "install"]
    return machine.run(command, timeout=300, environment=environment).err


@pytest.fixture(scope="module")
def service(machine: Machine) -> Iterator[Service]:
    """Installed, started and protecting, with a container that sleeps."""
    machine.container("docker")
    configure(machine, "open")
    said = make_install(machine)
    assert "webguard.service is enabled and started" in said
    box = machine.container(CONTAINER)
    init = machine.spawn(["unshare", "--mount", "sh", "-ec", INIT], box)
    yield Service(machine, box)
    init.kill()
    init.wait()


def test_installing_starts_a_service_that_protects(service: Service) -> None:
    assert service.property("ActiveState") == "active"
    assert service.property("UnitFileState") == "enabled"
    assert service.property("UnitFileState", "webguard-boot.service") == "enabled"
    assert service.property("StatusText") == "protecting"
    assert service.protected()
    assert service.machine.run(["/usr/local/bin/webguard", "status"]).out.startswith("PROTECTED")


def test_installing_again_changes_nothing(service: Service) -> None:
    before = service.property("MainPID")

    said = make_install(service.machine)

    assert said.splitlines() == [each for each in said.splitlines() if "'webguard status'" in each]
    assert service.property("MainPID") == before


def test_content_is_inspected_and_the_journal_says_so(service: Service, origin: Origin) -> None:
    origin.serve("/eicar", EICAR)

    done = service.get("/eicar?token=secret")

    assert EICAR.decode() not in done.out
    assert "Eicar" in done.out
    wait_until(lambda: any(each["kind"] == "web.blocked" for _, each in service.events()))
    ((priority, event),) = ((p, e) for p, e in service.events() if e["kind"] == "web.blocked")
    assert priority == "3"
    assert event["http"]["url"] == f"http://{ORIGIN_V4}/eicar"
    assert event["container"]["id"] == CONTAINER.partition("/")[2]
    assert "secret" not in json.dumps(service.journal())
    (recorded,) = service.webguard("events", "--kind", "web.blocked", "--format", "json").out.split(
        "\n"
    )[:1]
    assert json.loads(recorded)["id"] == event["id"]
    assert json.loads(recorded)["http"]["url"].endswith("?token=secret")


def test_every_line_in_the_journal_is_one_of_ours(service: Service) -> None:
    """No banner for a terminal, no traceback in pieces."""
    strange = [
        each["MESSAGE"]
        for each in service.journal()
        if not str(each["MESSAGE"]).startswith(("{", "webguard"))
    ]
    assert strange == []


def test_what_the_daemon_starts_is_held_as_tightly_as_a_unit_would(service: Service) -> None:
    pids = service.children()
    # A worker, the signer, the sentry, and who opens archives.
    assert len(pids) == 4, [argv(each) for each in pids]
    for pid in pids:
        facts = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        kept = CAP_DAC_OVERRIDE if "sentry" in argv(pid) else 0
        for kind, wanted in {"CapInh": 0, "CapPrm": kept, "CapEff": kept, "CapAmb": 0}.items():
            assert int(facts[kind], 16) == wanted, (argv(pid), kind)
        assert facts["NoNewPrivs"] == "1", argv(pid)
        assert facts["Seccomp"] == "2", argv(pid)


def test_reload_puts_new_settings_in_force_in_the_same_process(service: Service) -> None:
    before = service.property("MainPID")
    target = service.machine.path("/etc/webguard/webguard.yaml")
    target.write_text(SETTINGS % "open" + "log: {level: debug}\n")

    service.systemctl("reload", "webguard")

    assert service.property("MainPID") == before
    assert any(each["kind"] == "policy.reloaded" for _, each in service.events())

    target.write_text("web: {workers: no}\n")
    refused = service.machine.run(["systemctl", "reload", "webguard"], check=False)
    configure(service.machine, "open")
    assert refused.code != 0
    assert service.property("ActiveState") == "active"


def test_the_service_may_do_what_a_certificate_in_a_container_needs(service: Service) -> None:
    """The capabilities, calls and namespaces that the unit leaves are enough for it."""
    wait_until(lambda: CONTAINER[-64:] in service.webguard("containers", "--json").out)

    done = service.webguard("cert", "install", CONTAINER[-64:], check=False)

    assert done.code == RESTART_NEEDED, done
    assert "/etc/ssl/certs/ca-certificates.crt: installed" in done.out
    assert "ca-certificates.crt: removed" in service.webguard("cert", "remove", CONTAINER[-64:]).out


@pytest.mark.parametrize("number", ["KILL", "STOP"], ids=["killed", "hung"])
def test_a_lost_daemon_is_started_again(service: Service, origin: Origin, number: str) -> None:
    origin.serve("/eicar", EICAR)
    before = service.property("MainPID")

    service.systemctl("kill", "--kill-whom=main", f"--signal={number}", "webguard")

    wait_until(lambda: service.property("MainPID") not in ("0", before), timeout=90)
    wait_until(service.protected, timeout=90)
    assert "Eicar" in service.get("/eicar").out


def test_a_stop_leaves_nothing(service: Service, origin: Origin) -> None:
    origin.serve("/clean", b"clean")
    assert service.left() != []

    service.systemctl("stop", "webguard")

    assert service.property("Result") == "success"
    assert service.left() == []
    assert service.get("/clean").out == "clean"


def test_at_boot_nothing_is_shut_when_failure_opens(service: Service, origin: Origin) -> None:
    origin.serve("/clean", b"clean")

    service.systemctl("restart", "webguard-boot")

    assert service.left() == []
    assert service.get("/clean").out == "clean"


def test_at_boot_the_web_is_shut_until_the_daemon_protects(
    service: Service, origin: Origin
) -> None:
    origin.serve("/eicar", EICAR)
    origin.serve("/clean", b"clean")
    configure(service.machine, "closed")
    assert not (service.machine.cgroup.path / "later").exists()

    for _ in range(2):  # again is no different
        service.systemctl("restart", "webguard-boot")
        (table,) = service.left()
        assert "_closed_" in table
        assert service.get("/clean").out == ""
    assert (service.machine.cgroup.path / "later").is_dir(), "made for what starts later"
    assert service.get("/clean", service.machine.container("later")).out == ""
    assert service.get("/clean", service.machine.container("host")).out == "clean"

    service.systemctl("start", "webguard")

    assert service.get("/clean").out == "clean"
    assert "Eicar" in service.get("/eicar").out
    service.systemctl("restart", "webguard-boot")
    assert "A daemon runs" in service.journal("webguard-boot.service")[-1]["MESSAGE"]
    assert service.protected()

    service.systemctl("stop", "webguard")
    assert service.left() == []
    assert service.get("/clean").out == "clean"


def test_a_daemon_that_cannot_start_leaves_shut_what_was_shut(
    service: Service, origin: Origin
) -> None:
    origin.serve("/clean", b"clean")
    configure(service.machine, "closed")
    ca = service.machine.path("/var/lib/webguard/ca")
    service.systemctl("restart", "webguard-boot")
    os.chown(ca, 0, 0)  # not the signer's: refused, and never repaired silently
    try:
        failed = service.machine.run(["systemctl", "start", "webguard"], check=False)
    finally:
        service.systemctl("stop", "webguard")
        signer = named(service.machine.path("/etc/passwd"))["webguard-signer"]
        os.chown(ca, int(signer[2]), 0)

    assert failed.code != 0
    assert service.get("/clean").out == ""


def test_purge_leaves_nothing_of_the_installation(service: Service) -> None:
    assert service.left() != [], "what the last test kept shut"

    done = service.webguard("purge", "--yes", "--keep-packages")

    assert "webguard is gone from this host" in done.out
    assert service.left() == []
    assert service.systemctl("list-unit-files", "--no-legend", "webguard*", check=False) == ""
    found = service.machine.run(
        ["find", "/usr/lib", "/usr/local/bin", "/etc", "/opt", "/var/lib", "-name", "webguard*"],
        check=False,
    )
    assert found.out == ""
