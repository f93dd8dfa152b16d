"""A host of our own: namespaces, an origin behind a veth, cgroups and a private dockerd.

    host.run(["curl", "-s", "http://good.test/"])            as a process of the host
    host.cgroup("box").run([...])                            in a cgroup of its own
    host.docker.run(host.docker.busybox, "wget", ...)        in a container
    host.origin.serve("/x", b"...") ; host.origin.requests("/x")

Nothing of the machine's network, /etc, /opt, /run or /var/lib is touched. What a
host starts is in one cgroup tree (see `cgroups`) and dies with the suite.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.system.host import cgroups, origin
from tests.system.host.docker import Docker
from tests.system.host.origin import Origin
from tests.system.host.picture import Snapshot
from tests.system.host.sessions import session

type Argument = str | Path

_SCRIPTS = Path(__file__).parent
# Not /usr/local: a client that somebody put there must not decide what we test.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "PYTHONSAFEPATH": "1",
}
_FORWARDED = ("PIP_", "SSL_CERT", "REQUESTS_CA", "PYENV_ROOT", "PYTHON", "HOME", "PATH")


class CommandError(AssertionError):
    """A program of a test failed; the message has its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A program that has ended."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def checked(self) -> "Done":
        """Itself, or `CommandError` if it failed."""
        if self.code != 0:
            raise CommandError(
                f"{' '.join(self.argv)}: exit code {self.code}\n"
                f"--- output ---\n{self.out[-4000:]}\n--- errors ---\n{self.err[-4000:]}"
            )
        return self


@dataclass(slots=True)
class Cgroup:
    """A cgroup v2 folder, and programs in it, inside the test host."""

    host: "TestHost"
    path: Path

    @property
    def id(self) -> int:
        """What the kernel calls it."""
        return self.path.stat().st_ino

    @property
    def below_root(self) -> str:
        """Its path as `socket cgroupv2` wants it if the hierarchy is its mount's root."""
        return str(self.path.relative_to(cgroups.v2_root()))

    def run(
        self,
        argv: Sequence[Argument],
        *,
        timeout: float = 30,
        check: bool = True,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Run to the end. Raises `CommandError` unless `check` is false."""
        return self.host.run(
            argv, timeout=timeout, check=check, stdin=stdin, environment=environment, cgroup=self
        )

    def spawn(self, argv: Sequence[Argument]) -> "subprocess.Popen[bytes]":
        """Start, and leave it to the caller (or the end of the suite) to stop it."""
        return self.host.spawn(argv, cgroup=self)

    def remove(self) -> None:
        """Kill what is in it, and remove it."""
        cgroups.kill(self.path)
        cgroups.remove(self.path)


@dataclass
class TestHost:
    """See the head of the file. Made by `open_host`, which also ends it."""

    __test__ = False  # pytest: a class of ours, not of tests

    name: str
    folder: Path  # on the machine and in the host alike; world-readable
    pid: int  # holds the namespaces
    origin: Origin
    _ending: ExitStack = field(repr=False)

    def run(
        self,
        argv: Sequence[Argument],
        *,
        timeout: float = 30,
        check: bool = True,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        cgroup: Cgroup | None = None,
        network: bool = True,
    ) -> Done:
        """Run `argv` in the host and wait for it; on timeout (seconds) it is killed.

        `network=False` keeps the machine's network, for what must download. Raises
        `CommandError` when it fails, unless `check` is false.
        """
        words = tuple(map(str, argv))
        done = subprocess.run(
            self._entering(words, cgroup, network),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env={**ENVIRONMENT, **(environment or {})},
        )
        result = Done(
            argv=words,
            code=done.returncode,
            out=done.stdout.decode(errors="replace"),
            err=done.stderr.decode(errors="replace"),
        )
        return result.checked() if check else result

    def spawn(
        self,
        argv: Sequence[Argument],
        *,
        environment: Mapping[str, str] | None = None,
        cgroup: Cgroup | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start `argv` in the host. It dies with the thread that called this.

        Its pid is the program's own (nothing forks on the way in), so signals reach it.
        """
        return subprocess.Popen(
            self._entering(tuple(map(str, argv)), cgroup, network=True),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**ENVIRONMENT, **(environment or {})},
        )

    def _entering(
        self, argv: Sequence[str], cgroup: Cgroup | None, network: bool
    ) -> list[Argument]:
        path = cgroup.path if cgroup else cgroups.v2_root() / self.name / "host"
        net = str(self.pid) if network else "-"
        script = _SCRIPTS / "enter.py"
        start: list[Argument] = [sys.executable, "-I", "-S", script, str(os.getpid())]
        return [*start, path, net, str(self.pid), "/", *argv]

    def cgroup(self, name: str) -> Cgroup:
        """A cgroup of that name, made if it is not there."""
        path = cgroups.v2_root() / self.name / name
        path.mkdir(exist_ok=True)
        return Cgroup(self, path)

    def path(self, inside: Argument) -> Path:
        """A path of the host's own file system, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root", *Path(inside).parts[1:])

    @cached_property
    def docker(self) -> Docker:
        """The private dockerd, started when first asked for."""
        return self._ending.enter_context(Docker.started(self))

    def snapshot(self) -> Snapshot:
        """What the host looks like now, for `assert host.snapshot() - before == []`."""
        own = cgroups.v2_root()
        script = _SCRIPTS / "picture.py"
        done = self.run([sys.executable, "-I", "-S", script, own, self.name])
        return Snapshot.parse(done.out)

    def place_product(self, checkout: Path, *options: str) -> None:
        """Make the service users and place webguard, as `make run` does, in the host alone."""
        # With the caller's settings: its pip configuration and its choice of interpreter.
        settings = {k: v for k, v in os.environ.items() if k.startswith(_FORWARDED)}
        settings.pop("PYTHONSAFEPATH", None)
        for script in (["users"], ["place", *options, "/opt/webguard"]):
            program, *arguments = script
            command: list[Argument] = [checkout / "deploy" / "setup" / program, *arguments]
            self.run(command, network=False, timeout=600, environment=settings)


@contextmanager
def open_host(installed: Path | None = None) -> Iterator[TestHost]:
    """A test host; gone without a trace afterwards, whatever happens in between.

    `installed` is a folder whose content is shown at /opt/webguard; writes go elsewhere.
    """
    with session() as folder, ExitStack() as ending:
        for each in ("", "host"):
            (cgroups.v2_root() / folder.name / each).mkdir()
        server = ending.enter_context(Origin(folder))
        pid = ending.enter_context(_holder(installed))
        host = TestHost(folder.name, folder, pid, server, ending)
        _wire(host)
        server.listen()
        yield host


@contextmanager
def _holder(installed: Path | None) -> Iterator[int]:
    script = _SCRIPTS / "holder.py"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", script, str(os.getpid()), str(installed or "-")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the suite, which stops it in order
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the test host's namespaces could not be made; see above")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _wire(host: TestHost) -> None:
    """One link between host and origin, made inside, so that the machine never has it."""
    machine = f"/proc/{host.origin.pid}/ns/net"
    ip = ["ip", "-batch", "-"]
    host.run(
        ip,
        stdin=(
            "link set lo up\n"
            f"link add eth0 type veth peer name eth0 netns {host.origin.pid}\n"
            f"address add {origin.HOST_V4}/24 dev eth0\n"
            f"address add {origin.HOST_V6}/64 dev eth0 nodad\n"
            "link set eth0 up\n"
            f"route add default via {origin.ORIGIN_V4}\n"
            f"route add default via {origin.ORIGIN_V6}\n"
        ).encode(),
    )
    subprocess.run(
        ["nsenter", f"--net={machine}", "--", *ip],
        input=(
            "link set lo up\n"
            f"address add {origin.ORIGIN_V4}/24 dev eth0\n"
            f"address add {origin.ORIGIN_V6}/64 dev eth0 nodad\n"
            "link set eth0 up\n"
        ).encode(),
        check=True,
        timeout=10,
        env=ENVIRONMENT,
    )
    host.path("/etc/hosts").write_text(Origin.hosts_file())
    resolver = host.path("/etc/resolv.conf")
    with contextlib.suppress(FileNotFoundError):  # often a link to somewhere in /run
        resolver.unlink()
    # A closed port: an unknown name fails at once instead of after a time-out.
    resolver.write_text(f"nameserver {origin.ORIGIN_V4}\n")
