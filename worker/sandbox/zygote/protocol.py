"""One message per packet between worker and zygote, and between zygote and PID 1: a JSON object, sometimes with descriptors.

Knows: how a packet is packed. Does not know: what any message means.
Only trusted processes hold these sockets: PID 2 closes its copy before any code of a user runs.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Final, NamedTuple

MAX_MESSAGE_BYTES: Final = 65536
MAX_DESCRIPTORS: Final = 8

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def send(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one packet; the descriptors are duplicated by the kernel and still the caller's to close."""
    data = encode(message)
    if not descriptors:
        sock.send(data)
        return
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next packet and its descriptors (close-on-exec, the caller's to close); None when the other side is gone."""
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    data, control, _flags, _address = sock.recvmsg(MAX_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, body in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(body[: len(body) - len(body) % descriptors.itemsize])
    if not data:
        return None
    message: Message = json.loads(data)
    return message, list(descriptors)


INSIDE_UID = 1000
BUNDLE_PATH = "/fn"
PACKAGES_PATH = "/packages"
"""What a version's dependencies are installed in; empty for a version without."""
RUNTIME_PATH = "/runtime"
HOME_PATH = "/tmp"  # noqa: S108 - the sandbox's own tmpfs
SECRETS_PATH = "/run/secrets"
"""Where containers have them: a link to where the runtimes write them, which is nowhere as long as there are none."""
PROGRAM_FOLDER = "/usr/bin"
"""Where the program to execute is seen inside a strict sandbox, wherever the host has it: its own folder may lie under /tmp, which is another there."""


class ZygoteConfig(NamedTuple):
    """What holds for every sandbox of this zygote."""

    runtime: str
    """`python` is forked with the interpreter; anything else is executed."""
    folder: str
    """The runtime's own folder, such as `runtimes/python`."""
    command: tuple[str, ...]
    """What to execute; `{runtime}` stands for the runtime's folder as seen inside. Empty for Python."""
    preload: tuple[str, ...]
    """Standard modules imported once, before any sandbox."""
    reserved_mib: int
    """Address space the runtime reserves for itself, on top of a function's memory limit where only RLIMIT_DATA can count it."""
    level: str
    """`strict` or `restricted`."""
    state_dir: str
    uid_base: int
    """First host uid for sandboxes; 0: there is only this process's own uid."""
    missing: tuple[str, ...]
    """Walls left out on purpose: for tests that break one and look whether the receipt says so."""


class Limits(NamedTuple):
    """What one sandbox may use."""

    memory_limit_mib: int
    processes: int
    cpu_limit_s: float | None
    open_files: int
    tmp_mib: int
    network: bool
    cpus: float


def inside_command(config: ZygoteConfig) -> list[str]:
    """The command as it is executed in a strict sandbox."""
    program, *arguments = (part.replace("{runtime}", RUNTIME_PATH) for part in config.command)
    return [f"{PROGRAM_FOLDER}/{os.path.basename(program)}", *arguments]


def read_config(message: Message) -> ZygoteConfig:
    return ZygoteConfig(
        runtime=message["runtime"],
        folder=message["folder"],
        command=tuple(message["command"]),
        preload=tuple(message["preload"]),
        reserved_mib=message["reserved_mib"],
        level=message["level"],
        state_dir=message["state_dir"],
        uid_base=message["uid_base"],
        missing=tuple(message["missing"]),
    )


def read_limits(message: Message) -> Limits:
    return Limits(**message)
