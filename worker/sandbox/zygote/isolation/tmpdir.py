"""A private, size-limited folder for each restricted sandbox, or none at all.

Knows: what makes a tmpfs safe to let strangers write to. Does not know: namespaces, sandboxes; slots are numbers.
On a normal disk a function filled 3 GB in 10 s, and a tmpfs without an inode limit took 200,000 files: so only a tmpfs with both limits will do.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from typing import Final

from .. import ownership, syscalls

OFFERED: Final = "/tmp/fn"  # noqa: S108 - an operator mounts it there: compose `tmpfs: /tmp/fn:size=64m,nr_inodes=4096`
PREFIX: Final = "sandlot-tmpdirs-"
MAX_TMPFS_BYTES: Final = 4 << 30
MAX_TMPFS_INODES: Final = 1 << 20
TMPFS_MAGIC: Final = "tmpfs"


def open_tmpdirs() -> str:
    """A folder to make sandboxes' folders in; "" if there is none that is safe."""
    ownership.remove_stale_folders(tempfile.gettempdir(), PREFIX)
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{ownership.tag()}-")
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(
            "tmpdirs", folder, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=512m,nr_inodes=65536,mode=711"
        )
    except PermissionError:
        os.rmdir(folder)
        return OFFERED if _is_limited_tmpfs(OFFERED) else ""
    os.chmod(folder, 0o711)  # noqa: S103 - sandboxes pass through to their own
    return folder


def close_tmpdirs(folder: str) -> None:
    """Take the mount away again, and its mount point."""
    if folder and folder != OFFERED:
        syscalls.umount(folder, syscalls.MNT_DETACH)
        os.rmdir(folder)


def _is_limited_tmpfs(path: str) -> bool:
    try:
        found = os.statvfs(path)
        with open("/proc/self/mounts", encoding="utf-8") as file:
            kinds = [line.split(" ")[2] for line in file if line.split(" ")[1] == path]
    except OSError:
        return False
    return (
        kinds[-1:] == [TMPFS_MAGIC]
        and 0 < found.f_blocks * found.f_frsize <= MAX_TMPFS_BYTES
        and 0 < found.f_files <= MAX_TMPFS_INODES
        and os.access(path, os.W_OK)
    )


def make_home(tmpdirs: str, slot: int, uid: int) -> str:
    """An empty folder of mode 0700 for that uid (0: ours)."""
    path = f"{tmpdirs}/{os.getpid()}-{slot}"
    os.mkdir(path, 0o700)
    if uid:
        os.chown(path, uid, uid)
    return path


def remove_home(path: str) -> None:
    """Remove it with everything in it; nobody who could still change it is alive."""
    shutil.rmtree(path, onerror=_open_and_retry)


def _open_and_retry(remove: Callable[..., object], path: str, _info: object) -> None:
    """A function may leave folders without permissions behind."""
    for folder in (os.path.dirname(path), path):
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            os.chmod(folder, 0o700)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        remove(path)
