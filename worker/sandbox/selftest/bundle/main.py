"""The attack that runs inside a sandbox: it tries each isolation feature and answers what happened.

An answer is `[reached, detail]`; `reached` true means that the feature does not hold. An attack
that cannot be made gives no answer. Nothing here is trusted to defend anything.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
ON_X86 = os.uname().machine == "x86_64"
NUMBERS = {
    "keyctl": 250 if ON_X86 else 219,
    "io_uring_setup": 425,
    "bpf": 321 if ON_X86 else 280,
    "mount": 165 if ON_X86 else 40,
}
CLONE_NEWUSER = 0x10000000


def handler(event: dict[str, Any], context: object) -> dict[str, list[Any]]:
    return {
        "files": attack(lambda: read_file(event["canary_file"])),
        "bundle": attack(lambda: write_file(os.path.join(event["bundle"], "planted"))),
        "descriptors": descriptors(),
        "processes": attack(lambda: os.kill(event["neighbour_pid"], 0)),
        "worker memory": attack(lambda: os.open(f"/proc/{event['neighbour_pid']}/environ", os.O_RDONLY)),
        "tracing": attack(lambda: call(101 if ON_X86 else 117, 0x4206, event["neighbour_pid"], 0, 0)),
        "tcp": attack(lambda: connect(socket.AF_INET, ("127.0.0.1", event["canary_port"]))),
        "abstract sockets": attack(lambda: connect(socket.AF_UNIX, "\0" + event["canary_name"])),
        "new namespaces": attack(lambda: check(libc.unshare(CLONE_NEWUSER))),
        "mounts": attack(lambda: check(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None))),
        "keyrings": attack(lambda: call(NUMBERS["keyctl"], 0, -3, 0)),
        "io_uring": attack(lambda: call(NUMBERS["io_uring_setup"], 4, bytes(120))),
        "bpf": attack(lambda: call(NUMBERS["bpf"], 0, bytes(120), 120)),
        "privileges": privileges(),
        "environment": environment(event["secret"]),
        "limits": limits(),
    }


def attack(reach: Callable[[], object]) -> list[Any]:
    """Make an attack whose failure is an OSError; any other exception ends the whole test."""
    try:
        return [True, f"reached: {reach()!r}"]
    except OSError as error:
        return [False, error.strerror]


def call(number: int, *arguments: object) -> int:
    return check(libc.syscall(ctypes.c_long(number), *arguments))


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read_file(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.read())


def write_file(path: str) -> int:
    with open(path, "wb") as file:
        return file.write(b"x")


def connect(family: int, address: str | tuple[str, int]) -> object:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(address)
        return address


def descriptors() -> list[Any]:
    """Check that descriptors 0 to 4 are open, as the protocol says, and no others below 1024."""
    found = []
    for fd in range(1024):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return [found != [0, 1, 2, 3, 4], f"open: {found}"]


def privileges() -> list[Any]:
    locked = libc.prctl(39, 0, 0, 0, 0) == 1  # PR_GET_NO_NEW_PRIVS
    filtered = libc.prctl(21, 0, 0, 0, 0) == 2  # PR_GET_SECCOMP, SECCOMP_MODE_FILTER
    data = ctypes.create_string_buffer(24)
    check(
        libc.syscall(
            ctypes.c_long(125 if ON_X86 else 90), ctypes.create_string_buffer(b"\x22\x05\x08\x20" + bytes(4)), data
        )
    )
    held = any(data.raw)
    return [
        not locked or not filtered or held,
        f"no_new_privs={locked} seccomp={filtered} capabilities={'some' if held else 'none'}",
    ]


def environment(secret: str) -> list[Any]:
    found = [name for name, value in os.environ.items() if secret in value or name.startswith("SANDLOT_")]
    return [bool(found), f"{len(os.environ)} variables, of the worker's: {found or 'none'}"]


def limits() -> list[Any]:
    kinds = ("CORE", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "NOFILE", "NPROC", "SIGPENDING", "STACK")
    endless = [
        kind for kind in kinds if resource.getrlimit(getattr(resource, f"RLIMIT_{kind}"))[1] == resource.RLIM_INFINITY
    ]
    return [bool(endless), f"without limit: {endless or 'none'}"]
