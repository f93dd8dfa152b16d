"""Podman inside the test host: its service, and its command line client.

Podman has no daemon: the client makes containers by itself, and the service only
answers the API, so it can be stopped while containers run. The service's socket and
the storage are at their usual places, because /run and /var/lib are the test host's
own. Containers are below a cgroup of the test host's name, in every hierarchy.

With runc and without systemd: crun 1.8 refuses a hybrid cgroup layout, and systemd's
scopes would be asked of the machine.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from tests.system.host import cgroups, images
from tests.system.host.testhost import Done, TestHost

_DISK = 4 << 30  # bytes; the file is sparse
_START = 60.0
_STOP = 30.0
_STORAGE = "/var/lib/containers"
_SETTINGS = """
[containers]
# What a machine without CAP_SYS_RESOURCE may set as well.
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
# The usual locks are in /dev/shm, which is the machine's.
lock_type = "file"
"""


class Podman:
    """Podman. Images are made when first asked for."""

    def __init__(self, host: TestHost) -> None:
        self._host = host
        self.log = host.folder / "podman.log"
        self.cgroup_parent = f"/{host.name}.podman"
        self.socket = host.path("/run/podman/podman.sock")
        self._service: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def opened(cls, host: TestHost) -> Iterator["Podman"]:
        """A Podman whose service answers; gone at the end, with all its containers."""
        podman = cls(host)
        podman._make_disk()
        host.path("/etc/containers").mkdir(exist_ok=True)
        host.path("/etc/containers/containers.conf").write_text(_SETTINGS)
        try:
            podman.start()
            yield podman
        finally:
            try:
                podman.stop()
            finally:
                podman._clean_up()

    def _make_disk(self) -> None:
        """Overlays want a real file system under them, whatever the machine's root is."""
        disk = self._host.folder / "podman.ext4"
        with disk.open("wb") as file:
            file.truncate(_DISK)
        self._host.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk], timeout=120)
        self._host.path(_STORAGE).mkdir(exist_ok=True)
        # The loop device goes when it is unmounted.
        self._host.run(["mount", "-o", "loop", disk, _STORAGE])

    def _clean_up(self) -> None:
        """Containers first: what they leave mounted holds the disk."""
        containers = cgroups.v2_root() / self.cgroup_parent.strip("/")
        if containers.exists():
            cgroups.kill(containers)
        with contextlib.suppress(AssertionError):
            self.command("rm", "--force", "--all", "--time", "0")
        cgroups.remove_everywhere(self.cgroup_parent.strip("/"))
        self._host.run(["umount", "--recursive", "--lazy", _STORAGE])
        (self._host.folder / "podman.ext4").unlink()

    def start(self) -> None:
        """Start the service, and wait until it answers."""
        self.socket.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._service = self._host.spawn(
                ["podman", "system", "service", "--time=0", "unix:///run/podman/podman.sock"],
                stdout=log.fileno(),
                stderr=log.fileno(),
            )
        deadline = time.monotonic() + _START
        while not self._answers():
            if self._service.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"podman's service did not start; its log ends:\n{said}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        ping = ["curl", "-sf", "--unix-socket", "/run/podman/podman.sock", "http://podman/_ping"]
        return self._host.run(ping, check=False).code == 0

    def stop(self) -> None:
        """End the service; containers go on, as they do without one."""
        if self._service is None:
            return
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            self._service.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._service.kill()
            self._service.wait()
        self._service = None

    def signal(self, number: signal.Signals) -> None:
        """Send the service a signal."""
        assert self._service is not None
        self._service.send_signal(number)

    def command(self, *argv: str | Path, timeout: float = 60, check: bool = True) -> Done:
        """Run `podman ARGV...` in the host."""
        return self._host.run(["podman", *argv], timeout=timeout, check=check)

    @contextmanager
    def container(
        self, image: str, *argv: str, network: str = "host", options: tuple[str, ...] = ()
    ) -> Iterator[str]:
        """A container in the background: its full id. Killed and removed at the end."""
        place = ("--cgroup-parent", self.cgroup_parent, "--network", network)
        with self._removed("run", "--detach", *place, *options, image, *argv) as full_id:
            yield full_id

    @contextmanager
    def pod(self, name: str) -> Iterator[str]:
        """A pod in the host's network: its full id. Its containers go with it."""
        infra = ("--infra-image", self.busybox, "--infra-command", "/bin/sleep 600")
        create = ("pod", "create", "--name", name, "--network", "host", *infra)
        done = self.command(*create, "--cgroup-parent", self.cgroup_parent)
        try:
            yield done.out.strip()
        finally:
            self.command("pod", "kill", name, check=False)  # or rm waits for each in turn
            self.command("pod", "rm", "--force", name)

    @contextmanager
    def in_pod(self, pod: str, *argv: str, options: tuple[str, ...] = ()) -> Iterator[str]:
        """A container of a pod, whose network it has."""
        with self._removed(
            "run", "--detach", "--pod", pod, *options, self.busybox, *argv
        ) as full_id:
            yield full_id

    @contextmanager
    def _removed(self, *argv: str) -> Iterator[str]:
        full_id = self.command(*argv).out.strip()
        try:
            yield full_id
        finally:
            # Gone already, if the test was about that.
            with contextlib.suppress(AssertionError):
                self.command("rm", "--force", "--time", "0", full_id)

    @cached_property
    def busybox(self) -> str:
        """Small: a shell and its applets."""
        reference = "localhost/webguard-test/busybox:1"
        self.command("import", images.busybox(self._host.folder), reference, timeout=300)
        return reference
