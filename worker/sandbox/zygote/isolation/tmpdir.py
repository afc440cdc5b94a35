"""A private, size-limited folder for each restricted sandbox, or none at all.

On a normal disk a function filled 3 GB in 10 s, and in a tmpfs without an inode limit it made
200,000 files. So only a tmpfs with both limits is used.
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


# Process: zygote, once. unshare(2) of a mount namespace and mount(2) need CAP_SYS_ADMIN, which an
# ordinary user and a container with its engine's defaults do not have; the operator's tmpfs is for
# them. MS_PRIVATE keeps the mount from propagating to the host (mount_namespaces(7)).
def open_tmpdirs() -> str:
    """Return a folder to make the sandboxes' folders in, or "" if there is none that is safe."""
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
    # Mode 0711 lets a sandbox pass through to its own folder, and list none.
    os.chmod(folder, 0o711)  # noqa: S103
    return folder


# Process: zygote.
def close_tmpdirs(folder: str) -> None:
    """Unmount the tmpfs and remove its mount point; the operator's tmpfs stays."""
    if folder and folder != OFFERED:
        syscalls.umount(folder, syscalls.MNT_DETACH)
        os.rmdir(folder)


# statvfs(3) reports a tmpfs without a size limit as 0 blocks, and one without nr_inodes as 0 files.
# Of several mounts on one path the last line of /proc/self/mounts is the visible one.
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


# Process: zygote. The pid is part of the name because zygotes share the operator's tmpfs.
def make_home(tmpdirs: str, slot: int, uid: int) -> str:
    """Make an empty folder of mode 0700 for that uid (0: the zygote's own)."""
    path = f"{tmpdirs}/{os.getpid()}-{slot}"
    os.mkdir(path, 0o700)
    if uid:
        os.chown(path, uid, uid)
    return path


# Process: zygote. Every process that could still change the folder is dead, and rmtree does not
# follow links.
def remove_home(path: str) -> None:
    """Remove a sandbox's folder with everything in it."""
    shutil.rmtree(path, onerror=_open_and_retry)


# For a zygote without CAP_DAC_OVERRIDE, whose functions run under its own uid.
def _open_and_retry(remove: Callable[..., object], path: str, _info: object) -> None:
    """Remove what rmtree could not: a function may leave folders without permissions behind."""
    for folder in (os.path.dirname(path), path):
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            os.chmod(folder, 0o700)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        remove(path)
