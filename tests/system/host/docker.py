"""A private dockerd inside the test host, and its command line client.

Everything of it is at its usual place (/run/docker.sock, /var/lib/docker), because
/run and /var/lib are the test host's own; so the product finds it as it would on any
host. Its containers are below a cgroup of the test host's name, in every hierarchy.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.host import cgroups, images

if TYPE_CHECKING:
    from tests.system.host.testhost import Done, TestHost

_DISK = 8 << 30  # bytes; the file is sparse
_START = 60.0
_STOP = 30.0


class Docker:
    """The dockerd. Images are made when first asked for."""

    def __init__(self, host: "TestHost") -> None:
        self._host = host
        self.log = host.folder / "dockerd.log"
        self.cgroup_parent = f"/{host.name}.docker"
        self.socket = host.path("/run/docker.sock")

    @classmethod
    @contextmanager
    def started(cls, host: "TestHost") -> Iterator["Docker"]:
        """A dockerd that answers; stopped at the end."""
        docker = cls(host)
        docker._make_disk()
        with docker.log.open("wb") as log:
            process = host.spawn(
                [
                    *("dockerd", "--host", "unix:///run/docker.sock"),
                    *("--cgroup-parent", docker.cgroup_parent),
                    # systemd's driver would ask the machine's systemd for scopes.
                    *("--exec-opt", "native.cgroupdriver=cgroupfs"),
                    *("--storage-driver", "overlay2"),
                ],
                stdout=log.fileno(),
                stderr=log.fileno(),
            )
        try:
            docker._wait(process)
            yield docker
        finally:
            _stop(process, cgroups.v2_root() / docker.cgroup_parent.strip("/"))

    def _make_disk(self) -> None:
        """overlay2 wants a real file system under it, whatever the machine's root is."""
        disk = self._host.folder / "docker.ext4"
        with disk.open("wb") as file:
            file.truncate(_DISK)
        self._host.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk], timeout=120)
        # The loop device goes when the mount namespace does.
        self._host.run(["mount", "-o", "loop", disk, "/var/lib/docker"])

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _START
        while self.command("info", check=False).code != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the private dockerd did not start; its log ends:\n{said}")
            time.sleep(0.1)

    def command(
        self, *argv: str | Path, timeout: float = 60, check: bool = True, stdin: bytes = b""
    ) -> "Done":
        """Run `docker ARGV...` against this dockerd and no other."""
        return self._host.run(
            ["docker", "--host", "unix:///run/docker.sock", *argv],
            timeout=timeout,
            check=check,
            stdin=stdin,
        )

    def run(
        self,
        image: str,
        *argv: str,
        network: str = "host",
        options: tuple[str, ...] = (),
        timeout: float = 60,
        check: bool = True,
    ) -> "Done":
        """Run a fresh container to its end, in the foreground; it is removed afterwards."""
        start = ("run", "--rm", "--network", network, *options)
        return self.command(*start, image, *argv, timeout=timeout, check=check)

    @contextmanager
    def container(
        self,
        image: str,
        *argv: str,
        network: str = "host",
        options: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """A container in the background: its full id. Killed and removed at the end."""
        start = ("run", "--detach", "--network", network, *options)
        full_id = self.command(*start, image, *argv).out.strip()
        try:
            yield full_id
        finally:
            # Gone already, if the test was about that.
            with contextlib.suppress(AssertionError):
                self.command("rm", "--force", full_id)

    def _import(self, name: str, archive: Path, *changes: str) -> str:
        reference = f"webguard-test/{name}:1"
        options = [word for change in changes for word in ("--change", change)]
        self.command("import", *options, archive, reference, timeout=300)
        return reference

    @cached_property
    def busybox(self) -> str:
        """Small: a shell and its applets. Its wget speaks HTTP only, and crashes with -T."""
        return self._import("busybox", images.busybox(self._host.folder))

    @cached_property
    def bare(self) -> str:
        """One static program at /busybox; no /etc, no shell, no trust store."""
        return self._import("bare", images.bare(self._host.folder), 'ENTRYPOINT ["/busybox"]')

    @cached_property
    def debian(self) -> str:
        """Real clients: curl, wget, Python's requests, and Debian's trust store."""
        return self._import("debian", images.debian(), "ENV LANG=C.UTF-8")


def _stop(process: "subprocess.Popen[bytes]", containers: Path) -> None:
    """Kill the containers first (dockerd would wait ten seconds for each), then end dockerd."""
    try:
        cgroups.kill(containers)
    finally:
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
