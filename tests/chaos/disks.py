"""Disks of our own under Valkey's data: one that is soon full, and one whose power can be cut.

Knows: mount(8), mkfs.ext4(8), the shutdown ioctl. Does not know: what is stored on a disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Self

DiskKind = Literal["", "small", "cuttable"]
SMALL_MIB: Final = 24
IMAGE_MIB: Final = 256
FS_IOC_SHUTDOWN: Final = 0x8004587D
"""`_IOR('X', 125, __u32)`: the emergency stop of ext4, f2fs and xfs (fs/ext4/ioctl.c); xfstests
simulates power cuts with it."""
NO_LOG_FLUSH: Final = struct.pack("I", 2)
"""EXT4_GOING_FLAGS_NOLOGFLUSH: neither dirty pages nor the journal's open transaction reach the
disk. Fsynced data is there; nothing else is guaranteed."""


def why_not(kind: DiskKind) -> str:
    """Why there can be no such disk on this machine; empty if there can."""
    if not kind:
        return ""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    if kind == "cuttable" and shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    if kind == "cuttable" and not Path("/dev/loop-control").exists():
        return "there are no loop devices here"
    try:
        with tempfile.TemporaryDirectory(prefix="sandlot-faults-") as folder, disk(kind, Path(folder)):
            return ""
    except (subprocess.CalledProcessError, OSError) as error:
        return str(getattr(error, "stderr", "") or error).strip()


class SmallDisk:
    """A few MiB of memory, mounted at `path` while it is entered."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self.path.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m", "tmpfs", str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", str(self.path))

    def fill(self) -> None:
        """Not a byte more goes into it."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            for size_bytes in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):  # ENOSPC, with blocks and then with pages
                    while ballast.write(bytes(size_bytes)) == size_bytes:
                        pass

    def free(self) -> None:
        (self.path / "ballast").unlink()


class CuttableDisk:
    """An ext4 in a file; a process that uses it mounts it in its own namespace (`launch.py`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image = path.with_suffix(".image")

    def __enter__(self) -> Self:
        self.path.mkdir(exist_ok=True)
        with self.image.open("wb") as image:
            image.truncate(IMAGE_MIB << 20)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))
        return self

    def __exit__(self, *_: object) -> None:
        self.image.unlink()

    def cut(self, pid: int) -> None:
        """Cut the power of this process's machine: open files there fail with EIO from now on."""
        descriptor = os.open(f"/proc/{pid}/root{self.path}", os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    @property
    def in_use(self) -> bool:
        """True while the kernel has the disk mounted in any namespace.

        A new mount would then find the dead file system instead of the disk.
        """
        return bool(_run("losetup", "--associated", str(self.image)))


Disk = SmallDisk | CuttableDisk


@contextlib.contextmanager
def disk(kind: DiskKind, path: Path) -> Iterator[Disk | None]:
    """The disk for `path`, gone at the end; nothing for no kind."""
    if not kind:
        yield None
        return
    with SmallDisk(path) if kind == "small" else CuttableDisk(path) as made:
        yield made


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
