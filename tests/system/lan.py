"""Machines for the tests: network namespaces, each with a cable (a veth pair) to the first.

The first is always 10.0.0.5. No machine reaches this machine's network, or any other but the
first. Names contain this process's id, so that the next run finds and removes what a killed run
left behind. The command is ip(8).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.chaos.launch import CLONE_NEWNET
from tests.chaos.parts import LAUNCH
from tests.waiting import HANG_S

PREFIX: Final = "sandlot-lan-"
NAMESPACES: Final = Path("/run/netns")
FIRST: Final = "10.0.0.5"


def why_not() -> str:
    """Why there can be no machines here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip(8) is not installed"
    try:
        with lan() as made:
            made.join()
            return ""
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"


class Machine:
    """One namespace; `address` is its own on the cable to the first."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def take_address(self, address: str) -> None:
        """Be known to itself by another address, too."""
        _ip(self, "addr", "add", f"{address}/32", "dev", "lo")

    def command(self, *words: str) -> list[str]:
        """Return the command that starts a program there, to die with the tests.

        Its first word is an absolute path.
        """
        return [sys.executable, "-IS", str(LAUNCH), str(os.getpid()), str(NAMESPACES / self.name), "", "", *words]


class Lan:
    """A network that begins with `first`; `join` adds machines, `unplug` removes one silently."""

    def __init__(self) -> None:
        self._count = 0
        self.first = self._make(FIRST)
        # One address on all of its cables: it answers for it on each (arp(7)), and has a route to
        # the machine at the other end.
        _ip(self.first, "addr", "add", f"{FIRST}/32", "dev", "lo")

    def join(self) -> Machine:
        self._count += 1
        machine = self._make(f"10.0.0.{FIRST.rpartition('.')[2]}{self._count}")
        cable = f"to{self._count}"
        _run(
            "ip",
            "link",
            "add",
            "eth0",
            "netns",
            machine.name,
            "type",
            "veth",
            "peer",
            "name",
            cable,
            "netns",
            self.first.name,
        )
        _ip(self.first, "link", "set", cable, "up")
        _ip(self.first, "route", "add", f"{machine.address}/32", "dev", cable, "src", FIRST)
        _ip(machine, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        _ip(machine, "link", "set", "eth0", "up")
        return machine

    def within(self, machine: Machine) -> ThreadPoolExecutor:
        """Return an executor whose one thread is on the machine: sockets it opens stay there."""
        return ThreadPoolExecutor(1, initializer=_enter, initargs=(NAMESPACES / machine.name,))

    def unplug(self, machine: Machine) -> None:
        """Drop all packets without an error, as when the machine is switched off."""
        _ip(machine, "link", "set", "eth0", "down")

    def _make(self, address: str) -> Machine:
        machine = Machine(f"{PREFIX}{os.getpid()}-{self._count}", address)
        _run("ip", "netns", "add", machine.name)
        _ip(machine, "link", "set", "lo", "up")
        return machine

    def remove(self) -> None:
        for number in range(self._count + 1):
            subprocess.run(["ip", "netns", "del", f"{PREFIX}{os.getpid()}-{number}"], capture_output=True, check=False)


@contextlib.contextmanager
def lan() -> Iterator[Lan]:
    """The first machine, and those that join; gone at the end."""
    _sweep()
    made = Lan()
    try:
        yield made
    finally:
        made.remove()


def _sweep() -> None:
    """Remove the machines of runs whose process no longer exists."""
    for path in NAMESPACES.glob(f"{PREFIX}*") if NAMESPACES.is_dir() else ():
        match = re.fullmatch(rf"{PREFIX}(\d+)-\d+", path.name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


def _enter(namespace: Path) -> None:
    """For a thread, and for good: setns(2)."""
    with namespace.open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def _ip(machine: Machine, *words: str) -> None:
    _run("ip", "-netns", machine.name, *words)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANG_S)
