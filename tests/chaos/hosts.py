"""Hosts for the tests: network namespaces, each with its own cable (a veth pair) and firewall.

Every name contains this process's id, so that the next run finds and removes what a killed run
left behind. The commands are ip(8) and iptables(8).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "sandlot-faults-"
NAMESPACES: Final = Path("/run/netns")


def why_not() -> str:
    """Why there can be no hosts on this machine; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "iptables", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        with cables(1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"


class Host:
    """One namespace. `outside` is our address on its cable, where it finds Redis."""

    def __init__(self, number: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{number}"
        self.network = NAMESPACES / self.name
        self._cable = f"slf{os.getpid()}x{number}"  # at most 15 characters, see netdevice(7)
        # 198.18.0.0/15 is reserved for tests of network devices (RFC 2544); each cable takes four
        # addresses.
        slot = (os.getpid() * 8 + number) % 32768
        net = f"198.{18 + slot // 16384}.{slot // 64 % 256}.{slot % 64 * 4}"
        head, last = net.rsplit(".", 1)
        self.outside = f"{head}.{int(last) + 1}"
        self.inside = f"{head}.{int(last) + 2}"

    def make(self) -> None:
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _run("ip", "addr", "add", f"{self.outside}/30", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        self.within("ip", "addr", "add", f"{self.inside}/30", "dev", "eth0")
        self.within("ip", "link", "set", "eth0", "up")
        self.within("ip", "link", "set", "lo", "up")

    def within(self, *command: str) -> None:
        # Not `ip netns exec`, which would mount a /sys of its own, without cgroups.
        _run("nsenter", f"--net={self.network}", *command)

    def unplug(self) -> None:
        """Unplug the cable: packets are lost, and no error is reported."""
        _run("ip", "link", "set", self._cable, "down")

    def plug(self) -> None:
        _run("ip", "link", "set", self._cable, "up")

    def drop(self) -> None:
        """A firewall that swallows what leaves; what arrives still does."""
        self.within("iptables", "-A", "OUTPUT", "-o", "eth0", "-j", "DROP")

    def reject(self) -> None:
        """A firewall that answers with a reset."""
        self.within("iptables", "-A", "OUTPUT", "-o", "eth0", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")

    def open_firewall(self) -> None:
        self.within("iptables", "-F", "OUTPUT")

    def remove(self) -> None:
        """With all that is in it; the cable's other end goes with it."""
        subprocess.run(["ip", "link", "del", self._cable], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


@contextlib.contextmanager
def cables(count: int) -> Iterator[list[Host]]:
    """So many hosts, gone at the end."""
    sweep()
    hosts = [Host(number) for number in range(count)]
    try:
        for host in hosts:
            host.make()
        yield hosts
    finally:
        for host in hosts:
            host.remove()


def sweep() -> None:
    """Remove the hosts of runs whose process no longer exists."""
    for path in NAMESPACES.glob(f"{PREFIX}*") if NAMESPACES.is_dir() else ():
        match = re.fullmatch(rf"{PREFIX}(\d+)-(\d+)", path.name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            subprocess.run(["ip", "link", "del", f"slf{match[1]}x{match[2]}"], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
