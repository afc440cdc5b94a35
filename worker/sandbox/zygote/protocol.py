"""Messages between the worker, the zygote and a sandbox's init, and the values in them.

A message is a JSON object in one packet of an `AF_UNIX` `SOCK_SEQPACKET` socket, sometimes with
descriptors. Only trusted processes hold these sockets: the runtime closes its copy before it reads
any code of a user. Worker and zygote are always of one version, so the names are not a contract.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Final, NamedTuple

MAX_MESSAGE_BYTES: Final = 65536
MAX_DESCRIPTORS: Final = 8

INSIDE_UID = 1000
BUNDLE_PATH = "/fn"
PACKAGES_PATH = "/packages"
"""The folder of a version's installed dependencies; empty for a version without any."""
RUNTIME_PATH = "/runtime"
HOME_PATH = "/tmp"  # noqa: S108 - the sandbox's own tmpfs
SECRETS_PATH = "/run/secrets"
"""The folder where containers have secrets. Here a link to the folder that the runtimes write them
to, which does not exist as long as there are none."""
PROGRAM_FOLDER = "/usr/bin"
"""The folder of the executed program inside a strict sandbox, wherever the host has the program:
its own folder may lie below /tmp, which is another one inside."""

Message = dict[str, Any]


class ZygoteConfig(NamedTuple):
    """The settings shared by every sandbox of one zygote."""

    runtime: str
    """`python` is forked with the interpreter; any other runtime is executed."""
    folder: str
    """The runtime's own folder, such as `runtimes/python`."""
    command: tuple[str, ...]
    """The command to execute; `{runtime}` stands for the runtime's folder as seen inside. Empty for
    Python."""
    preload: tuple[str, ...]
    """Standard modules imported once, before any sandbox."""
    reserved_mib: int
    """Address space that the runtime reserves for itself. It is added to a function's memory limit
    where only RLIMIT_DATA can count memory."""
    level: str
    """`strict` or `restricted`."""
    state_dir: str
    uid_base: int
    """First host uid for sandboxes; 0 if there is only this process's own uid."""
    missing: tuple[str, ...]
    """Isolation features left out on purpose, for tests that check that the receipt reports it."""


class Limits(NamedTuple):
    """The resources that one sandbox may use."""

    memory_limit_mib: int
    processes: int
    cpu_limit_s: float | None
    open_files: int
    tmp_mib: int
    network: bool
    cpus: float


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


def inside_command(config: ZygoteConfig) -> list[str]:
    """Return the command as it is executed in a strict sandbox."""
    program, *arguments = (part.replace("{runtime}", RUNTIME_PATH) for part in config.command)
    return [f"{PROGRAM_FOLDER}/{os.path.basename(program)}", *arguments]


# Process: worker, zygote, init and runtime call this function and the two below.
def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


# unix(7), SCM_RIGHTS: the kernel installs duplicates in the receiver, which sees other numbers for
# the same open file descriptions.
def send(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one packet; the descriptors stay the caller's to close."""
    data = encode(message)
    if not descriptors:
        sock.send(data)
        return
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


# SOCK_SEQPACKET keeps packets apart, so one recvmsg(2) is one message; 0 bytes are the end.
# MSG_CMSG_CLOEXEC sets close-on-exec as the descriptors arrive: nothing executed later inherits
# them.
def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and its descriptors, or None when the other side is gone.

    The descriptors are close-on-exec, and the caller's to close.
    """
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
