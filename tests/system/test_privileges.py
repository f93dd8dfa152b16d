"""What a worker that was taken over could reach: nothing worth having."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, running

pytestmark = pytest.mark.system

PROXY, SIGNER, SCAN = "webguard-proxy", "webguard-signer", "webguard-scan"
MODULES = {
    PROXY: "webguard.daemon.worker",
    SIGNER: "webguard.daemon.signer",
    SCAN: "webguard.daemon.unpacking",
}
USERS = pytest.mark.parametrize("user", [PROXY, SIGNER, SCAN])
CONTROL = "/run/webguard/control.sock"
CA = "/var/lib/webguard/ca"
PYTHON = "/opt/webguard/venv/bin/python"
CAP_DAC_OVERRIDE = 1 << 1
NETFILTER = 12  # NETLINK_NETFILTER


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(host: TestHost, webguard_installed: Path, box: Cgroup) -> Iterator[Webguard]:
    with running(host, webguard_installed, [box.below_root]) as daemon:
        yield daemon


def account(host: TestHost, user: str) -> tuple[int, int]:
    fields = host.run(["getent", "passwd", user]).out.split(":")
    return int(fields[2]), int(fields[3])


def processes(webguard: Webguard, user: str) -> list[int]:
    found = webguard.children(MODULES[user])
    assert found, f"no process of {user}"
    return found


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> list[str]:
    return [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]


def as_user(host: TestHost, user: str, *argv: str) -> tuple[int, str]:
    """Run a program as a service runs: its user, no other group, no capability."""
    uid, gid = account(host, user)
    ids = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    done = host.run(["setpriv", *ids, "--bounding-set=-all", *argv], check=False)
    return done.code, done.out + done.err


def sockets(webguard: Webguard, table: str, wanted: str) -> set[str]:
    """The links of /proc/PID/fd to the sockets whose line in /proc/net/TABLE is as wanted."""
    lines = Path(f"/proc/{webguard.pid}/net/{table}").read_text().splitlines()
    column = lines[0].split().index("Inode")
    return {f"socket:[{line.split()[column]}]" for line in lines if re.search(wanted, line)}


@USERS
def test_a_service_has_a_user_of_its_own_and_no_power(webguard: Webguard, user: str) -> None:
    uid, gid = account(webguard.host, user)
    for pid in processes(webguard, user):
        facts = status(pid)
        assert facts["Uid"].split() == [str(uid)] * 4
        assert facts["Gid"].split() == [str(gid)] * 4
        assert set(facts["Groups"].split()) <= {str(gid)}
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(facts[kind], 16) == 0, kind
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == "2"  # the process's own filter: there is no systemd here


def test_the_sentry_keeps_only_what_tidying_the_cgroup_tree_takes(webguard: Webguard) -> None:
    known = {pid for user in MODULES for pid in processes(webguard, user)}
    (sentry,) = set(children(webguard.pid)) - known
    facts = status(sentry)
    assert int(facts["CapPrm"], 16) == int(facts["CapEff"], 16) == CAP_DAC_OVERRIDE
    assert facts["NoNewPrivs"] == "1"


@USERS
def test_a_service_is_no_operator(host: TestHost, webguard: Webguard, user: str) -> None:
    assert host.run(["id", "-nG", user]).out.split() == [user]
    code, said = as_user(host, user, "/opt/webguard/venv/bin/webguard", "status")
    assert code == 77
    assert "Traceback" not in said


@USERS
def test_a_service_cannot_reach_the_control_socket(
    host: TestHost, webguard: Webguard, user: str
) -> None:
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    code, said = as_user(host, user, PYTHON, "-I", "-c", program, CONTROL)
    assert code == 1
    assert "PermissionError" in said


def test_the_cas_folder_is_the_signers_alone(host: TestHost, webguard: Webguard) -> None:
    facts = host.path(CA).stat()
    assert (facts.st_uid, facts.st_mode & 0o7777) == (account(host, SIGNER)[0], 0o700)

    (key,) = (each for each in host.path(CA).iterdir() if b"PRIVATE KEY" in each.read_bytes())

    for argv in (["ls", CA], ["cat", f"{CA}/{key.name}"], ["touch", f"{CA}/x"]):
        code, said = as_user(host, PROXY, *argv)
        assert code != 0
        assert "Permission denied" in said
    assert as_user(host, SIGNER, "ls", CA)[0] == 0


@USERS
def test_a_service_holds_nothing_that_it_does_not_need(webguard: Webguard, user: str) -> None:
    webguard.status()  # so that the control socket has been used
    control = sockets(webguard, "unix", re.escape(CONTROL) + "$")
    assert control & set(descriptors(webguard.pid)), "the daemon's own, or this test sees nothing"
    for pid in processes(webguard, user):
        held = descriptors(pid)
        assert not control & set(held)
        assert [each for each in held if each.startswith((CA, "/var/lib", "/etc", "/run"))] == []


def test_the_redirects_owner_is_in_no_other_process(webguard: Webguard) -> None:
    """Whoever holds that socket keeps the redirect alive after the daemon's death."""
    owning = sockets(webguard, "netlink", rf"^\S+ +{NETFILTER} ")
    assert owning & set(descriptors(webguard.pid))
    family = [pid for user in MODULES for pid in processes(webguard, user)]
    family += [pid for pid in children(webguard.pid) if pid not in family]
    assert len(family) == 4, "one worker, the signer, one scan process, the sentry"
    for pid in family:
        assert not owning & set(descriptors(pid))


def children(parent: int) -> list[int]:
    return [
        int(pid)
        for task in Path(f"/proc/{parent}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


@USERS
def test_a_container_with_a_services_uid_cannot_look_inside_it(
    host: TestHost, webguard: Webguard, box: Cgroup, user: str
) -> None:
    uid, gid = account(host, user)
    (pid, *_) = processes(webguard, user)
    for what in ("mem", "environ", "fd/0", "maps"):
        argv = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "head", "-c1"]
        done = box.run(["setpriv", *argv, f"/proc/{pid}/{what}"], check=False)
        assert done.code != 0, what
        assert "Permission denied" in done.err


@USERS
def test_nothing_of_the_starting_shell_reaches_a_service(webguard: Webguard, user: str) -> None:
    for pid in processes(webguard, user):
        names = {each.split(b"=")[0] for each in environment(pid)}
        assert names <= {b"PATH", b"LANG", b"PYTHONSAFEPATH", b"PYTHONDONTWRITEBYTECODE"} | {
            b"PYTHONUNBUFFERED"
        }
        assert str(Path(f"/proc/{pid}/cwd").readlink()) == "/"
        assert os.getsid(pid) == pid


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]


def test_an_operator_may_ask_and_others_may_not(host: TestHost, webguard: Webguard) -> None:
    group = host.run(["getent", "group", "webguard"]).out.split(":")[2]
    ask = ["/opt/webguard/venv/bin/webguard", "status", "--json"]

    with operator_named(host, "nobody"):
        operator = host.run(
            ["setpriv", "--reuid=65534", "--regid=65534", f"--groups={group}", *ask], check=False
        )
    stranger = host.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *ask], check=False
    )

    assert stranger.code == 77
    assert "webguard" in stranger.err
    assert "Traceback" not in stranger.err
    assert operator.code == 0
    assert '"protected": true' in operator.out


@contextmanager
def operator_named(host: TestHost, user: str) -> Iterator[None]:
    """A user in the operators' group while the block runs."""
    groups = host.path("/etc/group")
    before = groups.read_text()
    groups.write_text(re.sub(r"^(webguard:.*:)$", rf"\g<1>{user}", before, flags=re.MULTILINE))
    try:
        yield
    finally:
        groups.write_text(before)
