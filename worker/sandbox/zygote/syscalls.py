"""System calls that Python does not offer, one function each, on x86_64 and aarch64.

Every function but `landlock_abi` raises OSError with the name of the call; none retries. Which
process calls them is said where they are called. Arguments are converted to C types, because ctypes
passes a Python int as a 32-bit C int.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from typing import Final

MACHINE: Final = os.uname().machine
ON_X86: Final = MACHINE == "x86_64"

# asm/unistd_64.h and asm-generic/unistd.h; from 424 on the numbers are the same everywhere.
SYS_CLONE: Final = 56 if ON_X86 else 220
SYS_CAPGET: Final = 125 if ON_X86 else 90
SYS_CAPSET: Final = 126 if ON_X86 else 91
SYS_PIVOT_ROOT: Final = 155 if ON_X86 else 41
SYS_SECCOMP: Final = 317 if ON_X86 else 277
SYS_OPEN_TREE: Final = 428
SYS_MOVE_MOUNT: Final = 429
SYS_CLOSE_RANGE: Final = 436
SYS_MOUNT_SETATTR: Final = 442
SYS_LANDLOCK_CREATE_RULESET: Final = 444
SYS_LANDLOCK_ADD_RULE: Final = 445
SYS_LANDLOCK_RESTRICT_SELF: Final = 446

# linux/sched.h: clone(2) and unshare(2).
CLONE_PARENT: Final = 0x8000
CLONE_NEWTIME: Final = 0x80
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

# linux/mount.h: mount(2) and umount2(2).
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

# linux/fcntl.h and linux/mount.h: open_tree(2), move_mount(2) and mount_setattr(2).
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 4
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
MOUNT_ATTR_NOEXEC: Final = 8
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000

# linux/prctl.h: prctl(2).
PR_SET_PDEATHSIG: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_GET_SECUREBITS: Final = 27
PR_SET_SECUREBITS: Final = 28
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# PyDLL keeps the GIL across a call: the child of a fork holds it as its parent did, and writes
# nothing to take it again.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
for _name in ("fork", "mount", "prctl", "sethostname", "umount2", "unshare"):
    getattr(_libc, _name)  # ctypes makes a function object at its first use: here, not in each sandbox


def _call(name: str, number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise _failure(name)
    return result


def _failure(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


# The raw call takes no stack (null): the child continues on a copy of this one, as after fork(2).
# The order of the last arguments differs between x86_64 and aarch64 (clone(2)), but all are null.
def clone(flags: int) -> int:
    """Call clone(2) like fork(2), with flags such as new namespaces; return 0 in the child.

    Neither the C library nor the interpreter learns of it: the child is an exact copy, with its
    parent's idea of thread ids. It may run trusted code and fork, nothing more. Only for a process
    with a single thread, in which no lock is held.

    Raises:
        OSError: EPERM without the privilege for a namespace, ENOSPC at a limit of
            user_namespaces(7), EAGAIN at a limit of processes.
        RuntimeError: the process has threads.
    """
    if len(sys._current_frames()) != 1:
        raise RuntimeError("raw clone in a process with threads")
    pid: int = _libc.syscall(ctypes.c_long(SYS_CLONE), ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None)
    if pid < 0:
        raise _failure(f"clone({flags:#x})")
    return pid


def fork() -> int:
    """Call fork(2) through the C library, with its handlers (pthread_atfork(3)), without Python's.

    Python's handlers rebuild locks and threads, of which a process with one thread and no held lock
    has none, and copy 600 kB of memory in doing so. One of them matters: a child that goes on to
    run Python code has to call `random.seed`.

    Raises:
        OSError: EAGAIN at a limit of processes.
        RuntimeError: the process has threads.
    """
    if len(sys._current_frames()) != 1:
        raise RuntimeError("raw fork in a process with threads")
    pid: int = _libc.fork()
    if pid < 0:
        raise _failure("fork")
    return pid


def write_file(path: str, data: bytes) -> None:
    """Write to an existing file by one write(2).

    Without the text and buffer layers of `open`, whose memory each sandbox that uses them would
    copy. One write is also what uid_map and gid_map require (user_namespaces(7)).
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


# unshare(2): needs CAP_SYS_ADMIN, except that CLONE_NEWUSER by itself needs no privilege, unless a
# distribution restricts it, and gives the caller all capabilities in the new user namespace, which
# it creates first. CLONE_NEWUSER is EINVAL in a process with threads. CLONE_NEWPID and
# CLONE_NEWTIME concern only children made later.
def unshare(flags: int) -> None:
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        raise _failure(f"unshare({flags:#x})")


# mount(2): needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace. There only file
# systems that declare themselves safe can be mounted: tmpfs and proc, among others.
def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    if _libc.mount(_text(source), _text(target), _text(kind), ctypes.c_ulong(flags), _text(options)) < 0:
        raise _failure(f"mount({kind or source} on {target})")


# umount2(2), MNT_DETACH: the mount disappears from the tree at once, and is freed when the last
# user of its files is gone.
def umount(target: str, flags: int) -> None:
    if _libc.umount2(_text(target), ctypes.c_int(flags)) < 0:
        raise _failure(f"umount({target})")


# pivot_root(2): needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace; `new_root`
# must be a mount point, and neither its parent mount nor that of the current root may be shared.
def pivot_root(new_root: str, put_old: str) -> None:
    _call("pivot_root", SYS_PIVOT_ROOT, _text(new_root), _text(put_old))


def open_tree(path: str, flags: int = 0) -> int:
    """Return a descriptor of a detached copy of the mount at `path`.

    Needs CAP_SYS_ADMIN in the user namespace that owns the caller's mount namespace.
    """
    return _call(
        f"open_tree({path})",
        SYS_OPEN_TREE,
        ctypes.c_int(AT_FDCWD),
        _text(path),
        ctypes.c_uint(OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags),
    )


# move_mount(2): attaches a detached tree. Needs CAP_SYS_ADMIN in the user namespace that owns the
# mount namespace of the target.
def move_mount(fd: int, target: str) -> None:
    _call(
        "move_mount",
        SYS_MOVE_MOUNT,
        ctypes.c_int(fd),
        b"",
        ctypes.c_int(AT_FDCWD),
        _text(target),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )


# mount_setattr(2), since Linux 5.12. struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
# The size is passed last, so that the structure can grow.
def mount_setattr(fd: int, path: str, flags: int, add: int) -> None:
    """Add mount attributes.

    None is ever cleared, so attributes that an outer user namespace has locked
    (mount_namespaces(7)) do not make it fail.
    """
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", add, 0, 0, 0))
    _call(
        "mount_setattr",
        SYS_MOUNT_SETATTR,
        ctypes.c_int(fd),
        _text(path),
        ctypes.c_uint(flags),
        attributes,
        ctypes.c_size_t(32),
    )


# close_range(2), since Linux 5.9: numbers without an open file in the range are skipped.
def close_range(first: int, last: int) -> None:
    _call("close_range", SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0))


# sethostname(2): needs CAP_SYS_ADMIN in the user namespace that owns the UTS namespace.
def set_host_name(name: bytes) -> None:
    if _libc.sethostname(name, ctypes.c_size_t(len(name))) < 0:
        raise _failure("sethostname")


# prctl(2): unused arguments must be 0, which the kernel checks for many options.
def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    result: int = _libc.prctl(
        ctypes.c_int(option), ctypes.c_ulong(argument), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    if result < 0:
        raise _failure(f"prctl({option})")
    return result


# capset(2): the permitted set can only shrink, and the effective one must lie within it.
def capset(effective: int, permitted: int, inheritable: int) -> None:
    _call(
        "capset",
        SYS_CAPSET,
        _CAPABILITY_HEADER,
        ctypes.create_string_buffer(_capability_data(effective, permitted, inheritable)),
    )


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this thread, as bit sets."""
    data = ctypes.create_string_buffer(24)
    _call("capget", SYS_CAPGET, _CAPABILITY_HEADER, data)
    e0, p0, i0, e1, p1, i1 = struct.unpack("=6I", data.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


# struct __user_cap_header_struct: _LINUX_CAPABILITY_VERSION_3, and pid 0, which is this thread.
_CAPABILITY_HEADER: Final = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)


def _capability_data(effective: int, permitted: int, inheritable: int) -> bytes:
    """Return two of struct __user_cap_data_struct: the low 32 bits of the sets, then the high."""
    low = [value & 0xFFFFFFFF for value in (effective, permitted, inheritable)]
    high = [value >> 32 for value in (effective, permitted, inheritable)]
    return struct.pack("=6I", *low, *high)


def load_filter(program: bytes) -> None:
    """Load a seccomp filter for this thread and all it starts; it can never be taken off.

    Needs no-new-privs or CAP_SYS_ADMIN in the user namespace (seccomp(2)).

    Args:
        program: an array of `struct sock_filter`.
    """
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    _call("seccomp", SYS_SECCOMP, ctypes.c_uint(1), ctypes.c_uint(0), header)


# landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION (1): returns the ABI, not a
# descriptor.
def landlock_abi() -> int:
    """Return the Landlock ABI of this kernel; 0 if Landlock is missing, switched off or refused."""
    result: int = _libc.syscall(ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(result, 0)


def landlock_ruleset(attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _call(
        "landlock_create_ruleset",
        SYS_LANDLOCK_CREATE_RULESET,
        buffer,
        ctypes.c_size_t(len(attributes)),
        ctypes.c_uint(0),
    )


def landlock_add_rule(ruleset: int, kind: int, rule: bytes) -> None:
    buffer = ctypes.create_string_buffer(rule, len(rule))
    _call(
        "landlock_add_rule", SYS_LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), buffer, ctypes.c_uint(0)
    )


# landlock_restrict_self(2): E2BIG at 16 nested domains.
def landlock_restrict_self(ruleset: int) -> None:
    _call("landlock_restrict_self", SYS_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
