"""A virtual machine with systemd as its first process.

It is Sandlot's image with a kernel, and QEMU emulates the processor (no KVM). The machine has no
network: commands go in and output comes back over a serial line.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.chaos.parts import LAUNCH
from tests.containers.engine import IMAGE, REPOSITORY, Engine, install

HERE: Final = Path(__file__).parent
GUEST: Final = "localhost/sandlot-machine:test"
DISK_MIB: Final = 3072
MEMORY_MIB: Final = 3072
BOOT_LIMIT_S: Final = 600
COMMAND_LIMIT_S: Final = 120
PROGRAMS: Final = {"qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs"}


class Machine:
    """Made by `boot`; closed, it is gone with its disk."""

    def __init__(self, qemu: subprocess.Popen[bytes], line: socket.socket, folder: Path) -> None:
        self._qemu = qemu
        self._line = line
        self._answers = line.makefile("r", encoding="utf-8")
        self._folder = folder

    def run(self, command: str, limit_s: float = COMMAND_LIMIT_S, check: bool = True) -> str:
        """Run the command and return its stdout and stderr in one text.

        A command that exceeds its limit has failed, whatever `check` says.
        """
        order = json.dumps({"command": command, "limit_s": limit_s})
        self._line.sendall(order.encode() + b"\n")
        done = self.hear(limit_s + 30)
        assert done["status"] is not None, f"{command}: not within {limit_s} s\n{done['output']}"
        assert not check or done["status"] == 0, f"{command}: status {done['status']}\n{done['output']}"
        return str(done["output"])

    def hear(self, limit_s: float) -> dict[str, object]:
        self._line.settimeout(limit_s)
        try:
            said = json.loads(self._answers.readline())
        except (TimeoutError, json.JSONDecodeError) as error:
            console = (self._folder / "console").read_text(errors="replace")[-3000:]
            raise AssertionError(f"the machine says nothing ({error}):\n{console}") from error
        return said if isinstance(said, dict) else {}

    def until(self, command: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Repeat the command until it succeeds, and return what it printed then."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                return self.run(command)
            except AssertionError as error:
                last = error
        raise AssertionError(f"not within {limit_s:.0f} s: {last}")

    def close(self) -> None:
        self._answers.close()
        self._line.close()
        self._qemu.kill()
        self._qemu.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)


def boot(engine: Engine, folder: Path) -> Machine:
    """
    Raises:
        NoEngine: QEMU or mkfs.ext4 cannot be had.
    """
    install(PROGRAMS)
    shutil.copytree(HERE, folder / "context", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "deploy", folder / "context" / "deploy", ignore=shutil.ignore_patterns("secrets"))
    engine.build("--tag", GUEST, "--build-arg", f"IMAGE={IMAGE}", str(folder / "context"))
    disk = folder / "disk"
    _write_disk(engine, disk, folder)
    qemu_path = shutil.which("qemu-system-x86_64") or ""
    words = [sys.executable, "-IS", str(LAUNCH), str(os.getpid()), "", "", "", qemu_path]  # it dies with us
    words += ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)]
    words += ["-display", "none", "-no-reboot", "-nic", "none"]
    words += ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img")]
    words += ["-append", "root=/dev/vda rw console=ttyS0 panic=-1 systemd.unified_cgroup_hierarchy=1"]
    words += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    words += ["-serial", f"file:{folder / 'console'}"]
    words += ["-serial", f"unix:{folder / 'line'},server=on,wait=off"]
    qemu = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=None)
    line = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 10
    while line.connect_ex(str(folder / "line")) and time.monotonic() < deadline:
        time.sleep(0.05)  # until QEMU listens
    machine = Machine(qemu, line, folder)
    try:
        machine.hear(BOOT_LIMIT_S)
    except BaseException:
        machine.close()
        raise
    return machine


def _write_disk(engine: Engine, disk: Path, folder: Path) -> None:
    name = engine.run("create", GUEST).stdout.strip()
    try:
        mounted = engine.run("mount", name).stdout.strip()
        for what in ("vmlinuz", "initrd.img"):
            shutil.copy(next(Path(mounted, "boot").glob(f"{what}-*")), folder / what)
        with disk.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", mounted, str(disk)], check=True, timeout=COMMAND_LIMIT_S)
    finally:
        engine.run("rm", "--force", name, check=False)
