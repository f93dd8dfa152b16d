"""Boot the distribution's systemd inside the test host: a script, run by path with `-I -S`.

    init.py PARENT

It becomes process 1 of namespaces of its own, in the cgroup that the caller put it
into, on the test host's network and on a file system whose writable parts are thrown
away; nothing is enabled but the journal. It prints its pid as the test host sees it.
What a boot would do to the kernel (settings, modules, devices, the clock) is out of
its reach, as in a container: it gets no capability for it, and /sys and /proc/sys are
read-only.
"""

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
# SYS_MODULE RAWIO BOOT TIME; MAC_OVERRIDE MAC_ADMIN SYSLOG; AUDIT_CONTROL AUDIT_READ
_DROPPED = (16, 17, 22, 25, 32, 33, 34, 30, 37)
_STATE = Path("/run/.machine")
_TARGET = "machine.target"
_UNITS = Path("/etc/systemd/system")
_WANTED = "systemd-journald.service"
# What else the distribution starts early is about devices, disks and old files.
_EARLY = [
    Path("/usr/lib/systemd/system", each)
    for each in ("sysinit.target.wants", "timers.target.wants", "multi-user.target.wants")
]

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or source} on {target}: {os.strerror(number)}")


def _read_only(target: str) -> None:
    _mount(target, target, "", _BIND)
    _mount("none", target, "", _BIND | _REMOUNT | _RDONLY)


def _overlay(target: str) -> None:
    upper = _STATE / target.strip("/").replace("/", "-")
    for part in ("upper", "work"):
        (upper / part).mkdir(parents=True)
    options = f"lowerdir={target},upperdir={upper}/upper,workdir={upper}/work"
    _mount("overlay", target, "overlay", options=options)


def _devices() -> None:
    folder = _STATE / "dev"
    folder.mkdir()
    _mount("tmpfs", str(folder), "tmpfs", options="mode=755")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (folder / name).touch()
        _mount(f"/dev/{name}", str(folder / name), "", _BIND)
    for name in ("pts", "shm"):
        (folder / name).mkdir()
    _mount("devpts", str(folder / "pts"), "devpts", options="newinstance,ptmxmode=0666,mode=620")
    (folder / "ptmx").symlink_to("pts/ptmx")
    (folder / "fd").symlink_to("/proc/self/fd")
    _mount(str(folder), "/dev", "", _BIND | _REC)


def _files() -> None:
    """A file system of our own: nothing that is written here is seen anywhere else."""
    _mount("none", "/", "none", _REC | _PRIVATE)
    product = os.open("/opt/webguard", os.O_PATH | os.O_DIRECTORY)
    _mount("tmpfs", "/run", "tmpfs", options="mode=755,size=4g")
    _STATE.mkdir(mode=0o700)
    # Temporary ones too: systemd cleans them, and this checkout may be in one.
    for target in ("/etc", "/usr", "/opt", "/var/lib", "/var/tmp", "/tmp"):
        _overlay(target)
    # A copy, and no mount: purge removes the folder.
    shutil.copytree(f"/proc/self/fd/{product}", "/opt/webguard", symlinks=True, dirs_exist_ok=True)
    for folder in ("/etc/webguard", "/var/lib/webguard"):  # an earlier test's
        shutil.rmtree(folder, ignore_errors=True)
    _mount("tmpfs", "/var/log", "tmpfs")
    _mount("proc", "/proc", "proc")
    _libc.umount2(b"/sys/fs/cgroup", _MNT_DETACH)  # with all below it
    _read_only("/proc/sys")
    _read_only("/sys")
    _mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    _devices()


def _settle() -> None:
    """A machine on which nothing is enabled."""
    Path("/etc/fstab").write_text("")
    shutil.rmtree(_UNITS)
    _UNITS.mkdir()
    text = "[Unit]\nRequires=basic.target\nAfter=basic.target\n"
    (_UNITS / _TARGET).write_text(text)
    early = {each.name for folder in _EARLY if folder.is_dir() for each in folder.iterdir()}
    for name in early - {_WANTED}:
        (_UNITS / name).symlink_to("/dev/null")


def main(parent: int) -> None:
    """Print the pid, then be systemd. Dies with `parent`."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.umask(0o022)
    new = os.CLONE_NEWNS | os.CLONE_NEWUTS | os.CLONE_NEWIPC
    os.unshare(new | os.CLONE_NEWPID | os.CLONE_NEWCGROUP)
    if child := os.fork():
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    _files()
    _settle()
    for capability in _DROPPED:
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    environment = {"container": "test", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    program = "/usr/lib/systemd/systemd"
    os.execve(program, [program, "--system", f"--unit={_TARGET}"], environment)


if __name__ == "__main__":
    main(int(sys.argv[1]))
