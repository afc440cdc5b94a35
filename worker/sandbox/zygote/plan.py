"""What the worker asks of a zygote, as values: which runtime, which level, which limits.

Knows: the shape of the worker's first message and of a policy. Does not know: how any of it is done.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .messages import Message

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


class Plan(NamedTuple):
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


def inside_command(plan: Plan) -> list[str]:
    """The command as it is executed in a strict sandbox."""
    program, *arguments = (part.replace("{runtime}", RUNTIME_PATH) for part in plan.command)
    return [f"{PROGRAM_FOLDER}/{os.path.basename(program)}", *arguments]


def read_plan(message: Message) -> Plan:
    return Plan(
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
