"""Run a program inside the test host: a script, run by path with `-I -S`.

    enter.py PARENT CGROUP NET MOUNT FOLDER PROGRAM ARGUMENT...

CGROUP is a folder to join, NET and MOUNT are pids whose namespaces to enter; "-"
leaves each as it is. The order matters: the cgroup's path is the machine's, and
entering a mount namespace changes the working directory.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main(parent: int, cgroup: str, net: str, mount: str, folder: str, *argv: str) -> None:
    """Become `argv` there. Dies with `parent`, so that no test leaves a process behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    if cgroup != "-":
        Path(cgroup, "cgroup.procs").write_text("0")
    entered = [
        (os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), flag)
        for pid, kind, flag in ((net, "net", os.CLONE_NEWNET), (mount, "mnt", os.CLONE_NEWNS))
        if pid != "-"
    ]
    for namespace, flag in entered:
        os.setns(namespace, flag)
    os.chdir(folder)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
