"""Give up, in a child of ours, what its work never needs: the kernel holds it to that.

A service manager does this from outside with SystemCallFilter=, RestrictNamespaces=,
RestrictAddressFamilies= and ProtectSystem=. Our children are started by the daemon,
on hosts with and without systemd, and so they do it themselves, before they read the
first hostile byte. Nothing here can be undone, and all of it needs the
PR_SET_NO_NEW_PRIVS that `bind_to_parent` sets.

What is refused, is refused with EPERM as any right that a process lacks, so that a
library's own way around still works. A kernel or machine without the feature is no
error: users, capabilities and descriptors are the first wall, this is the second.
"""

import ctypes
import os
import platform
import struct

_PR_SET_SECCOMP, _FILTER = 22, 2
_LANDLOCK_CREATE_RULESET = 444  # the same on every architecture
_LANDLOCK_RESTRICT_SELF = 446
# linux/landlock.h, its first version: to run and to write a file, to remove and to make each kind.
_HANDLED = 1 << 0 | 1 << 1 | 0x1FF0

_LOAD, _JUMP_EQUAL, _JUMP_ANY, _JUMP_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
# linux/seccomp.h: what the filter is told of a call. Arguments have 64 bits, the lower half first.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000  # of x86_64's second set of numbers, which a list of the first would miss
_NEW_NAMESPACES = 0x7E020080
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

# AUDIT_ARCH of each machine, and whether its numbers are the first or second column below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_SOCKET, _CLONE, _CLONE3 = (41, 198), (56, 220), 435
# Each with its number on either: other programs and processes; namespaces and mounts; large parts
# of the kernel that nothing here has to do with, and attacks like; the machine itself.
_REFUSED = """
execve 59 221, execveat 322 281, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271
kcmp 312 272, pidfd_getfd 438 438
unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51
open_tree 428 428, move_mount 429 429, fsopen 430 430, fsmount 432 432, mount_setattr 442 442
mknodat 259 33, open_by_handle_at 304 265
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425
add_key 248 217, request_key 249 218, keyctl 250 219, personality 135 92
init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104
kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89
syslog 103 116, settimeofday 164 170, clock_settime 227 112, adjtimex 159 171
"""


def confine() -> bool:
    """Call nothing that a worker or signer has no use for, write no file; return if both hold.

    It is the calling thread's affair, and that of those it starts: call it before any other.
    """
    return all((give_up_paths(_HANDLED), _filter_calls()))


def give_up_paths(rights: int) -> bool:
    """Use no path in these ways from now on (Landlock, Linux 5.13): LANDLOCK_ACCESS_FS_...

    Return whether the kernel enforces it. Open descriptors stay. As for `confine`, it is the
    calling thread's affair, and that of those it starts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(rights)
    create = (_LANDLOCK_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    ruleset = libc.syscall(*create)
    if ruleset < 0:
        return False
    try:
        # A ruleset without rules allows nothing that it handles.
        return bool(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _filter_calls() -> bool:
    """Have every later system call looked at by `program`."""
    known = _MACHINES.get(platform.machine())
    if known is None:
        return False
    instructions = program(*known)
    text = ctypes.create_string_buffer(instructions, len(instructions))

    # struct sock_fprog: how many, and where.
    whole = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, whole, 0, 0) == 0)


def program(architecture: int, column: int) -> bytes:
    """Return the filter for one machine, as the kernel wants it (classic BPF)."""
    refuse = _return(_REFUSE | _EPERM)
    lines = [
        # Numbers mean something else on another architecture; we never change ours.
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, architecture, 1, 0),
        _return(_KILL),
        _step(_LOAD, _NUMBER),
    ]
    if column == 0:
        lines += [_step(_JUMP_LEAST, _X32, 0, 1), refuse]
    for _name, *numbers in refused_calls():
        lines += [_step(_JUMP_EQUAL, int(numbers[column]), 0, 1), refuse]
    # clone3 hides its flags in memory. Who is told that there is none takes clone.
    lines += [_step(_JUMP_EQUAL, _CLONE3, 0, 1), _return(_REFUSE | _ENOSYS)]
    lines += [
        _step(_JUMP_EQUAL, _CLONE[column], 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_ANY, _NEW_NAMESPACES, 0, 1),
        refuse,
        _return(_ALLOW),
    ]
    others = len(_FAMILIES)
    lines += [
        _step(_JUMP_EQUAL, _SOCKET[column], 1, 0),
        _return(_ALLOW),
        _step(_LOAD, _FIRST_ARGUMENT),
        *(_step(_JUMP_EQUAL, family, others - at, 0) for at, family in enumerate(_FAMILIES)),
        refuse,
        _return(_ALLOW),
    ]
    return b"".join(lines)


def refused_calls() -> list[list[str]]:
    """Return name and numbers of what is refused whatever its arguments."""
    return [each.split() for line in _REFUSED.strip().splitlines() for each in line.split(",")]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction: both jumps count the instructions that they skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _return(answer: int) -> bytes:
    return _step(_RETURN, answer)
