"""Run a program of this machine. The only module that imports subprocess.

`run` waits for a short command; `spawn` starts a process that lives as long as
we do. What `spawn` starts calls `bind_to_parent` first thing, so that no
helper outlives the daemon, however the daemon ends.
"""

import asyncio
import ctypes
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webguard.errors import HostError

# prctl(2) numbers, from linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

# What a child may see of our environment: nothing that changes how Python loads
# code, nothing an operator's shell happens to hold.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


def run(
    argv: Sequence[str],
    *,
    remedy: str,
    stdin: str = "",
    timeout: float = 10,
    fds: Sequence[int] = (),
) -> str:
    """Run `argv` and return what it printed, or raise `HostError` with its answer.

    There is no shell, so nothing in `argv` can be more than an argument. `fds`
    stay open in the child under their own numbers. `remedy` is the sentence the
    operator reads when it fails; write it first. On timeout (seconds) the child
    is killed.
    """
    try:
        done = subprocess.run(  # noqa: S603 - argv only, see the docstring
            argv,
            input=stdin.encode(),
            capture_output=True,
            timeout=timeout,
            check=True,
            pass_fds=fds,
            env=_ENVIRONMENT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        answer = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise HostError(" ".join(argv), answer, remedy) from error
    return done.stdout.decode(errors="replace")


@dataclass(slots=True)
class Child:
    """A process we started and have not yet waited for."""

    name: str
    pid: int
    _process: subprocess.Popen[bytes]

    async def wait(self) -> int:
        """Return the exit code (negative: the signal) once the process has ended."""
        # `signal` finds out too that it has ended, and then there is no such process any more.
        if (code := self._process.poll()) is not None:
            return code
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        pidfd = os.pidfd_open(self.pid)
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        return self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended already is no error."""
        self._process.send_signal(number)

    async def stop(self, grace: float) -> int:
        """End the process: SIGTERM, then SIGKILL after `grace` seconds. Returns its exit code."""
        if (code := self._process.poll()) is not None:
            return code
        self.signal(signal.SIGTERM)
        # A stopped process does not see SIGTERM before it continues.
        self.signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()


def spawn(
    argv: Sequence[str],
    *,
    name: str,
    remedy: str,
    fds: Sequence[int] = (),
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start `argv` as `user` (None: as ourselves) with `fds` open under their own numbers.

    Standard input is empty, output goes where ours goes. Raises `HostError`
    when the user or the program does not exist.
    """
    try:
        account = pwd.getpwnam(user) if user else None
        process = subprocess.Popen(  # noqa: S603 - argv only
            argv,
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=() if account else None,
            env={**_ENVIRONMENT, **(environment or {})},
            cwd="/",
            start_new_session=True,  # Ctrl-C reaches the daemon alone, which stops us in order
        )
    except KeyError as error:
        raise HostError(f"start {name}", f"there is no user {user}", remedy) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"start {name}", str(error), remedy) from error
    return Child(name, process.pid, process)


def bind_to_parent(parent: int) -> None:
    """Die with the process `parent`, and never gain privileges. Call first thing in a child.

    Must run after the change of user, which clears the death signal (prctl(2)).
    Ends the process if the parent is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in (
        (_PR_SET_PDEATHSIG, int(signal.SIGKILL)),
        (_PR_SET_NO_NEW_PRIVS, 1),
        (_PR_SET_DUMPABLE, 0),  # no core, no ptrace by the same uid from a container
    ):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
    if os.getppid() != parent:
        os._exit(1)
