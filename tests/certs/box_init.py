"""The first process of a test container: namespaces and a root of its own, no runtime.

Run by path with a JSON request as its argument; prints the pid of the
container's first process in the caller's pid namespace, then waits for it.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

request = json.loads(sys.argv[1])
root = Path(request["root"])
libc = ctypes.CDLL(None, use_errno=True)


def say(what: object) -> None:
    """Tell the test, which reads lines."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def mount(*arguments: str) -> None:
    """Mount, as the program of that name does."""
    subprocess.run(["mount", *arguments], check=True, timeout=10)


os.chdir(root)  # now: the folders above it may be closed to a user namespace
if request["user_namespace"]:
    os.unshare(os.CLONE_NEWUSER)
    say("map me")
    sys.stdin.readline()
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID)
if pid := os.fork():
    say(pid)
    os.waitpid(pid, 0)
    os._exit(0)

mount("--make-rprivate", "/")
if request["user_namespace"]:
    # A file system that the user namespace owns, as a rootless engine's is.
    place = Path("/mnt")
    mount("-t", "tmpfs", "tmpfs", str(place))
    shutil.copytree(".", place, symlinks=True, dirs_exist_ok=True)
    root = place
else:
    mount("--bind", str(root), str(root))
    mount("-t", "proc", "proc", str(root / "proc"))
for arguments, where in request["mounts"]:
    mount(*arguments, str(root) + where)
if request["read_only"]:
    mount("-o", "remount,bind,ro", str(root))
os.chdir(root)
subprocess.run(["pivot_root", ".", "."], check=True, timeout=10)
assert libc.umount2(b".", 2) == 0  # MNT_DETACH: the old root, which now lies on top
os.chdir("/")
os.execv("/bin/busybox", ["sh", "-c", request["script"]])
