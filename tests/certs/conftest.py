"""What the tests of certificates share: a CA, foreign roots, and containers of plain namespaces."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certs.authority import Authority
from webguard.model import Container


def a_foreign_root(name: str) -> bytes:
    """A self-signed certificate of somebody else, as PEM."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="session")
def foreign() -> Callable[[str], bytes]:
    return a_foreign_root


@pytest.fixture(scope="session")
def roots() -> bytes:
    """The bundle of a host: two roots of others."""
    return a_foreign_root("Root One") + a_foreign_root("Root Two")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.ensure(tmp_path_factory.mktemp("authority") / "ca")


@dataclass
class Box:
    """A running container. `root` is its tree, seen from the host."""

    root: Path
    container: Container
    outer: subprocess.Popen[str]
    cgroup: Path

    @property
    def pid(self) -> int:
        """Its first process, in our pid namespace."""
        return self.container.pid

    def path(self, inside: str) -> Path:
        """The host's view of a path, through the container's mounts. Only for trees we made."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def sh(self, script: str) -> str:
        """Run a shell script in the container; return what it printed."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd=/"]
        done = subprocess.run(
            [*enter, "/bin/busybox", "sh", "-c", script],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.stdout


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make a small file system of its own for a tree; unmount it after the test."""
    places: list[Path] = []

    def made(*arguments: str) -> Path:
        place = tmp_path / f"fs{len(places)}"
        place.mkdir()
        subprocess.run(["mount", *arguments, str(place)], check=True, timeout=20)
        places.append(place)
        return place

    yield made
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=20)


type Start = Callable[..., Box]


@pytest.fixture
def tree(tmp_path: Path, roots: bytes) -> Path:
    """The file system of a Debian-like container: bundle, anchors, hash links."""
    root = tmp_path / "tree"
    for folder in ("bin", "proc", "tmp", "etc/ssl/certs", "usr/local/share/ca-certificates"):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    (root / "etc/ssl/certs/ca-certificates.crt").write_bytes(roots)
    (root / "etc/ssl/certs/Root_One.pem").write_bytes(roots)
    (root / "etc/ssl/certs/0123abcd.0").symlink_to("Root_One.pem")
    return root


@pytest.fixture
def bare_tree(tmp_path: Path) -> Path:
    """The file system of a container with nothing but a program."""
    root = tmp_path / "bare"
    for folder in ("bin", "proc"):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    return root


@pytest.fixture
def victim(tmp_path: Path, roots: bytes) -> Path:
    """A store of the host that a container wants us to write to."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "ca-certificates.crt").write_bytes(roots)
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """Start containers; end them, and remove their cgroups, after the test."""
    boxes: list[Box] = []
    cgroups: list[Path] = []
    outers: list[subprocess.Popen[str]] = []

    def started(
        root: Path,
        *,
        script: str = "exec /bin/busybox sleep 300",
        mounts: Sequence[tuple[Sequence[str], str]] = (),
        read_only: bool = False,
        user_namespace: bool = False,
    ) -> Box:
        request = {
            "root": str(root),
            "script": script,
            "mounts": mounts,
            "read_only": read_only,
            "user_namespace": user_namespace,
        }
        outer = subprocess.Popen(
            [
                sys.executable,
                "-I",
                str(Path(__file__).with_name("box_init.py")),
                json.dumps(request),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        outers.append(outer)
        pid = _first_process(outer, user_namespace)
        cgroup = _cgroup_mount() / f"webguard-test-certs-{secrets.token_hex(4)}"
        cgroup.mkdir()
        cgroups.append(cgroup)
        (cgroup / "cgroup.procs").write_text(str(pid))
        _wait_for(pid)
        container = Container(
            runtime="proc",
            id=secrets.token_hex(32),
            started=int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]),
            pid=pid,
            cgroups=(cgroup.stat().st_ino,),
        )
        boxes.append(Box(root, container, outer, cgroup))
        return boxes[-1]

    yield started
    for box in boxes:
        with suppress(ProcessLookupError):
            os.kill(box.pid, signal.SIGKILL)  # the outer one has not reaped it: still the same
    for outer in outers:
        if outer not in [box.outer for box in boxes]:
            outer.kill()
        outer.communicate(timeout=20)
    for cgroup in cgroups:
        _remove(cgroup)


def _first_process(outer: subprocess.Popen[str], user_namespace: bool) -> int:
    assert outer.stdin is not None
    assert outer.stdout is not None
    if user_namespace:
        assert outer.stdout.readline() == "map me\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{outer.pid}/{name}").write_text("0 100000 65536")
        outer.stdin.write("\n")
        outer.stdin.flush()
    return int(outer.stdout.readline())


def _wait_for(pid: int) -> None:
    """Wait until the container's root is its own and its program runs."""
    ends = time.monotonic() + 20
    while Path(f"/proc/{pid}/exe").readlink() != Path("/bin/busybox"):
        assert time.monotonic() < ends
        time.sleep(0.01)


def _cgroup_mount() -> Path:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return Path(next(line.split()[4] for line in lines if " - cgroup2 " in line))


def _remove(cgroup: Path) -> None:
    ends = time.monotonic() + 20
    while True:
        try:
            for below in cgroup.glob("*/"):
                below.rmdir()
            return cgroup.rmdir()
        except OSError:  # the kernel is still taking the last process out of it
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)
