"""What keeps the daemon from starting is said in one line, with the remedy, and changes nothing."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.conftest import CHECKOUT, placed_dependencies
from tests.system.host.origin import EICAR, ORIGIN_V4, Origin
from tests.system.host.testhost import Done, TestHost, open_host
from tests.system.product import Webguard, curl, running
from webguard.cli.ask import ask

pytestmark = pytest.mark.system

SETTINGS = "/etc/webguard/webguard.yaml"
STATE = "/var/lib/webguard"
PORT = 13128


@pytest.fixture
def settings(host: TestHost, webguard_installed: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """Good settings, to be spoilt with `write`."""
    yield {"tls": {"extra_ca": [str(host.origin.ca_file)]}, "runtimes": {"cgroup_parents": ["x/y"]}}
    host.path(SETTINGS).unlink(missing_ok=True)


def write(host: TestHost, text: str | dict[str, dict[str, Any]]) -> None:
    host.path("/etc/webguard").mkdir(exist_ok=True)
    host.path(SETTINGS).write_text(text if isinstance(text, str) else yaml.safe_dump(text))


def start(host: TestHost, first: str = "true", user: int = 0) -> Done:
    """Try to start, in a mount namespace of its own in which `first` is done before."""
    script = f"set -e; {first}; exec setpriv --reuid={user} /opt/webguard/venv/bin/webguard run"
    return host.run(["unshare", "--mount", "sh", "-c", script], check=False, timeout=60)


def refused(host: TestHost, done: Done, code: int, *said: str) -> None:
    """One line, which says all this; and nothing of ours is there.

    A full disk is the record's trouble as well, which has an event and a line of its own for it.
    """
    kinds = {json.loads(each)["kind"] for each in done.out.splitlines()}
    assert (done.code, kinds - {"store.failed"}) == (code, set()), done
    records = ("WARNING: the record ", "events were not recorded")
    lines = [each for each in done.err.splitlines() if not any(one in each for one in records)]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("webguard: ")
    for each in said:
        assert each in done.err
    assert not host.path("/run/webguard").exists()
    assert "webguard" not in host.run(["nft", "list", "tables"]).out


def test_a_busy_port(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    listener = f"import socket; s = socket.create_server(('127.0.0.1', {PORT})); input()"
    program = f"{sys.executable} -I -c {shlex.quote(listener)}"
    # The listener ends with the shell's end of the pipe, which the daemon inherits.
    hold = f"mkfifo /run/hold; ({program} < /run/hold 2> /dev/null) & exec 3> /run/hold;"
    hold += " rm /run/hold; sleep 0.5"
    refused(host, start(host, hold), 1, f"port {PORT}", "in use", "ss -ltnp", "web.listen_port")


def test_not_root(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    refused(host, start(host, user=65534), 77, "must be root", "sudo")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        pytest.param("web:\n  prots: [80]\n", 2, "prots", id="an unknown key"),
        pytest.param("web:\n  ports: [80\n", 3, "", id="no YAML"),
        pytest.param("web:\n  on_failure: maybe\n", 2, "open or closed", id="a wrong value"),
        pytest.param("log:\n  level: info\nweb: {}\nweb: {}\n", 4, "web", id="a key twice"),
    ],
)
def test_broken_settings(
    host: TestHost, settings: dict[str, Any], text: str, line: int, said: str
) -> None:
    write(host, text)
    refused(host, start(host), 2, f"{SETTINGS}:{line}", said)


def test_a_rule_that_does_not_compile(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    rule = host.path("/etc/webguard/rules.d/mine.yar")
    rule.parent.mkdir(exist_ok=True)
    rule.write_text("rule fine { condition: true }\nrule broken { condition: nothing }\n")
    try:
        refused(host, start(host), 2, "/etc/webguard/rules.d/mine.yar:2", "nothing")
    finally:
        rule.unlink()


@pytest.mark.parametrize("spoil", ["chmod 666", "chown 65534"])
def test_settings_that_others_than_root_can_write(
    host: TestHost, settings: dict[str, Any], spoil: str
) -> None:
    write(host, settings)
    said = (SETTINGS, f"chown root {SETTINGS}; chmod go-w {SETTINGS}")
    refused(host, start(host, f"{spoil} {SETTINGS}"), 2, *said)


def test_a_state_folder_that_others_can_write(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    broken = f"mkdir -p {STATE}; mount -t tmpfs -o mode=777 none {STATE}"
    refused(host, start(host, broken), 1, STATE, f"chmod go-w {STATE}")


@pytest.mark.parametrize(
    "content", [pytest.param(None, id="missing"), pytest.param(b"\0no pem\n", id="no PEM")]
)
def test_an_extra_ca_that_cannot_be_used(
    host: TestHost, settings: dict[str, Any], content: bytes | None
) -> None:
    path = host.path("/etc/webguard/extra.pem")
    settings["tls"]["extra_ca"] = ["/etc/webguard/extra.pem"]
    write(host, settings)
    if content is not None:
        path.write_bytes(content)
    try:
        refused(host, start(host), 2, "/etc/webguard/extra.pem", "(")
    finally:
        path.unlink(missing_ok=True)


def test_libnftables_is_missing(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    mask = "for f in $(ldconfig -p | sed -n 's/.*libnftables.so.1 .* => //p');"
    mask += " do mount --bind /dev/null $f; done"
    refused(host, start(host, mask), 1, "libnftables.so.1", "apt-get install libnftables1")


def test_a_service_user_is_missing(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    mask = "grep -v ^webguard-signer /etc/passwd > /run/p; mount --bind /run/p /etc/passwd"
    try:
        refused(host, start(host, mask), 1, "webguard-signer", "make install")
    finally:
        host.path("/run/p").unlink(missing_ok=True)


def test_a_ca_folder_without_its_certificate(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    broken = (
        f"mkdir -p {STATE}; mount -t tmpfs -o mode=755 none {STATE}; mkdir -m 700 {STATE}/ca;"
        f"echo x > {STATE}/ca/ca-key.pem; chmod 600 {STATE}/ca/ca-key.pem;"
        f"chown -R webguard-signer {STATE}/ca"
    )
    refused(host, start(host, broken), 1, f"{STATE}/ca", "(")


def test_a_ca_folder_of_somebody_else(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    broken = (
        f"mkdir -p {STATE}; mount -t tmpfs -o mode=755 none {STATE}; mkdir {STATE}/ca;"
        f" chown 65534 {STATE}/ca"
    )
    refused(host, start(host, broken), 1, f"{STATE}/ca", "move it away")


@pytest.mark.parametrize("size", ["size=4k", "nr_inodes=2"])
def test_no_room_for_the_ca(host: TestHost, settings: dict[str, Any], size: str) -> None:
    write(host, settings)
    full = f"mkdir -p {STATE}; mount -t tmpfs -o mode=755,{size} none {STATE}"
    refused(host, start(host, full), 1, STATE, "No space left on device", "space")


def test_a_firewall_that_keeps_the_self_test_away(host: TestHost, settings: dict[str, Any]) -> None:
    write(host, settings)
    rule = f"tcp dport {PORT} drop"
    rules = f"table inet foe {{ chain in {{ type filter hook input priority -10; {rule}; }}; }}"
    host.run(["nft", "-f", "-"], stdin=rules.encode())
    try:
        done = start(host)
    finally:
        host.run(["nft", "delete", "table", "inet", "foe"])
    assert "protection.on" not in done.out
    refused(host, done, 1, "self-test", "another firewall")


def test_a_second_daemon_leaves_the_first_alone(
    host: TestHost, webguard_installed: Path, origin: Origin
) -> None:
    box = host.cgroup("box")
    origin.serve("/x", EICAR)
    with running(host, webguard_installed, [box.below_root]) as first:
        second = start(host)
        purge = first.command("purge", "--yes", check=False)

        assert (second.code, second.out) == (1, "")
        assert "another webguard" in second.err
        assert len(second.err.splitlines()) == 1
        assert purge.code == 1
        assert "daemon is running" in purge.err
        assert first.status()["protected"]
        assert curl(box, f"http://{ORIGIN_V4}/x").err == "403"


def test_nobody_takes_the_events(host: TestHost, settings: dict[str, Any]) -> None:
    """A full disk costs events, which are counted, and nothing else."""
    box = host.cgroup("box")
    program = host.path("/run/full")
    program.write_text(
        "#!/bin/sh\n[ $1 = run ] && exec > /dev/full\nexec /opt/webguard/venv/bin/webguard $*\n"
    )
    program.chmod(0o755)
    host.origin.serve("/x", EICAR)
    try:
        with running(host, Path("/run/full"), [box.below_root]) as webguard:
            before = events_lost(webguard)
            assert curl(box, f"http://{ORIGIN_V4}/x").err == "403"
            after = events_lost(webguard)
            assert webguard.stop() == 0
    finally:
        program.unlink()
    assert 0 < before < after


def events_lost(webguard: Webguard) -> int:
    status = ask(webguard.host.path("/run/webguard/control.sock"), "/v1/status")
    return int(status["events_lost"])


def test_no_daemon(host: TestHost, webguard_installed: Path) -> None:
    done = host.run([webguard_installed, "status"], check=False)
    assert done.code == 5
    assert "webguard run" in done.err
    assert len(done.err.splitlines()) == 1


def test_purge_removes_what_was_said_to_stay(webguard_installed: Path) -> None:
    # A host of its own: the others still need what goes here.
    with open_host() as other:
        # Copied, not mounted: a mount point cannot be removed.
        other.run(["cp", "-a", placed_dependencies(), "/opt/webguard"], timeout=120)
        other.place_product(CHECKOUT)
        box = other.cgroup("box")
        with running(other, webguard_installed, [box.below_root]) as webguard:
            webguard.stop()
        said = webguard.errors.read_text().partition("What stays")[2].splitlines()[1:]
        stays = [line.split()[0] for line in said]
        program: list[str | Path] = [webguard_installed, "purge"]
        rehearsed = other.run([*program, "--dry-run"])

        for path in ("/var/lib/webguard", "/etc/webguard", "/opt/webguard"):
            assert path in stays
            assert path in rehearsed.out
            assert other.path(path).exists()

        other.run([*program, "--yes"])

        for line in said:
            kept = line.split()[0]
            assert line.strip() in rehearsed.out
            assert not kept.startswith("/") or not other.path(kept).exists()
        names = other.run(["getent", "passwd"]).out + other.run(["getent", "group"]).out
        assert "webguard" not in names
