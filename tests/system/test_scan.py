"""`webguard scan` as an operator has it: walks as root, reads as nobody in particular."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.host.testhost import Done, TestHost
from tests.system.product import wait_until
from tests.webguard.scan.packing import encrypted, tarred

pytestmark = pytest.mark.system

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
TREE = "/tmp/webguard-scan"  # in the host's own /tmp
MODULE = b"webguard.daemon.scanning"


@pytest.fixture
def tree(host: TestHost) -> Iterator[Path]:
    """An empty folder of the host's, as this process reaches it."""
    host.run(["mkdir", "-m", "755", TREE])
    yield host.path(TREE)
    host.run(["rm", "-rf", "--one-file-system", TREE])


def lines(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def reasons(done: Done) -> dict[str, str]:
    return {
        each["path"]: each["unscanned"][0]["reason"]
        for each in lines(done)
        if each["type"] == "unscanned"
    }


def test_what_only_root_can_read_is_scanned(
    host: TestHost, webguard_installed: Path, tree: Path
) -> None:
    (tree / "shut").mkdir(mode=0o700)
    (tree / "shut/eicar").write_bytes(EICAR)
    (tree / "shut/eicar").chmod(0)

    done = host.run([webguard_installed, "scan", "--json", TREE], check=False)

    assert done.code == 50
    assert [each["path"] for each in lines(done)[:-1]] == [f"{TREE}/shut/eicar"]


def test_archives_are_opened_by_the_scanning_process(
    host: TestHost, webguard_installed: Path, tree: Path
) -> None:
    (tree / "good").write_bytes(tarred({"eicar": EICAR}, "w:gz"))
    (tree / "locked").write_bytes(encrypted({"eicar": EICAR}))

    done = host.run([webguard_installed, "scan", "--json", TREE], check=False)

    assert done.code == 50
    (found,) = [each for each in lines(done) if each["type"] == "found"]
    assert found["detections"][0]["member"] == "gzip/tar/eicar"
    assert reasons(done) == {f"{TREE}/locked": "it is encrypted"}


def test_who_is_not_root_scans_what_he_can_read(
    host: TestHost, webguard_installed: Path, tree: Path
) -> None:
    (tree / "shut").mkdir(mode=0o700)
    (tree / "eicar").write_bytes(EICAR)
    (tree / "mine").write_bytes(b"x")
    (tree / "mine").chmod(0)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    done = host.run([*nobody, webguard_installed, "scan", "--json", TREE], check=False)

    assert done.code == 50
    assert [each["path"] for each in lines(done) if each["type"] == "found"] == [f"{TREE}/eicar"]
    assert reasons(done) == {
        f"{TREE}/shut": "permission denied",
        f"{TREE}/mine": "permission denied",
    }
    assert "not root" in done.err


def test_mounts_are_entered_or_not_and_the_kernels_own_never(
    host: TestHost, webguard_installed: Path, tree: Path
) -> None:
    for name in ("proc", "sys", "memory", "again"):
        (tree / name).mkdir()
    mounts = (
        f"cd {TREE}; mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t tmpfs none memory;"
        " cp eicar memory/; mount --bind . again; exec"
    )
    (tree / "eicar").write_bytes(EICAR)
    apart = ["unshare", "--mount", "sh", "-c", f'{mounts} "$@"', "sh"]

    every = host.run([*apart, webguard_installed, "scan", "--json", TREE], check=False)
    one = host.run([*apart, webguard_installed, "scan", "--json", "-x", TREE], check=False)

    assert {each["path"] for each in lines(every)[:-1]} == {
        f"{TREE}/eicar",
        f"{TREE}/memory/eicar",
        f"{TREE}/again/eicar",
    }
    assert lines(every)[-1]["passed"] == {"file system of the kernel's own": 2}
    assert [each["path"] for each in lines(one)[:-1]] == [f"{TREE}/eicar"]
    assert lines(one)[-1]["passed"] == {"mount": 4}


def test_the_scanning_processes_have_no_power_and_end_with_the_scan(
    host: TestHost, webguard_installed: Path
) -> None:
    uid = host.run(["id", "-u", "webguard-scan"]).out.strip()
    with scanning(host, webguard_installed, host.folder / "scan.out") as (process, children):
        for pid in children:
            facts = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            )
            assert facts["Uid"].split() == [uid] * 4
            assert {int(facts[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
            links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
            assert len([each for each in links if each.startswith("socket:")]) <= 3  # asyncio's two

        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 100
    assert "interrupted" in (host.folder / "scan.out").read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_scanning_process_that_dies_costs_a_file_and_not_the_scan(
    host: TestHost, webguard_installed: Path, tree: Path
) -> None:
    for number in range(3000):
        (tree / f"{number:04}").write_bytes(b"x" * 20_000)
    output = host.folder / "scan.out"
    with scanning(host, webguard_installed, output, "--json", TREE) as (process, children):
        os.kill(children[0], signal.SIGKILL)
        code = process.wait(120)

    *outcomes, summary = (json.loads(line) for line in output.read_text().splitlines())
    assert code == 10
    assert [each["unscanned"][0]["reason"] for each in outcomes] == ["the scanner ended (SIGKILL)"]
    assert (summary["files"], summary["unscanned"]) == (2999, 1)


@contextmanager
def scanning(
    host: TestHost, program: Path, output: Path, *argv: str
) -> Iterator[tuple[Any, list[int]]]:
    """A scan that is at work, and the pids of its two scanning processes."""
    with output.open("wb") as out:
        process = host.spawn([program, "scan", *(argv or ("/usr",))], stdout=out.fileno())
    try:
        wait_until(lambda: len([pid for pid in children(process.pid) if asked(pid)]) == 2, 60)
        yield process, children(process.pid)
    finally:
        process.kill()
        process.wait(10)


def asked(pid: int) -> bool:
    """Whether it has been given a file: with each it gets processor time."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return any(line.startswith("Max cpu time") and line.split()[3] != "unlimited" for line in lines)


def children(parent: int) -> list[int]:
    """Of this process, those that scan."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(pid)
        for pid in listed
        if MODULE in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
