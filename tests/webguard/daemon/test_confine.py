"""What a confined process can still do, and what the kernel refuses it."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from webguard.daemon.confine import program, refused_calls

CHECKOUT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine"
)


def confined(deed: str) -> str:
    """What becomes of `deed` in a confined process: "done", or the error's name."""
    script = f"""
import asyncio, ctypes, os, socket, subprocess, sys, threading
sys.path.insert(0, {str(CHECKOUT)!r})
from webguard.daemon.confine import confine
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
if not confine():
    print("not here")
    sys.exit()
try:
    {deed}
    print("done")
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=30
    )
    said = done.stdout.strip()
    if said == "not here":
        pytest.skip("this kernel has no Landlock or no seccomp")
    return said or done.stderr


@pytest.mark.parametrize(
    "deed",
    [
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
        "socket.socket(40)",
        "os.unshare(os.CLONE_NEWUSER)",
        "os.setns(os.pidfd_open(os.getpid()), os.CLONE_NEWNS)",
        "os.execv(sys.executable, [sys.executable])",
        "subprocess.run(['/bin/true'])",
        "os.chroot('.')",
        "open('/dev/null', 'w')",
        "os.mkdir('/tmp/webguard-confined')",
        "os.unlink('/tmp/webguard-nothing')",
    ],
)
def test_it_is_refused_what_its_work_never_needs(deed: str) -> None:
    assert confined(deed) in ("PermissionError", "FileNotFoundError")


@pytest.mark.parametrize(
    "deed",
    [
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_INET6)",
        "socket.socketpair()",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)",
        "t = threading.Thread(target=print); t.start(); t.join()",
        "open('/etc/passwd').read()",
        "os.memfd_create('x')",
        "asyncio.run(asyncio.to_thread(len, 'x'))",
    ],
)
def test_it_may_do_its_work(deed: str) -> None:
    assert confined(deed) == "done"


def test_a_thread_that_is_started_later_is_held_too() -> None:
    deed = "asyncio.run(asyncio.to_thread(os.execv, '/bin/true', ['true']))"
    assert confined(deed) == "PermissionError"


def test_each_refused_call_is_in_the_filter_of_each_machine() -> None:
    numbers = refused_calls()
    assert len({name for name, *_ in numbers}) == len(numbers)
    for column in (0, 1):
        steps = program(1, column)
        wanted = {int(each[1 + column]).to_bytes(4, sys.byteorder) for each in numbers}
        found = {steps[at + 4 : at + 8] for at in range(0, len(steps), 8)}
        assert wanted <= found


def test_the_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    assert {name: number for name, number, _ in refused_calls() if known[name] != number} == {}
