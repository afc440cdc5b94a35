"""The disk cache that all worker processes of a machine share: bundles and package trees.

Each entry is a read-only folder named by a digest. An entry is always complete: it is written under
a temporary name and renamed when its last file is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

UNUSED_S: Final = 14 * 86_400
"""Entries that no worker of this machine used for two weeks are removed; they can be rebuilt."""
IN_USE_S: Final = 600.0
"""Entries used within this time are never evicted, since a sandbox may still read their files.

Ten times the interval at which workers report the entries in use, so that a report may be late.
"""
_BLOCK_BYTES: Final = 4096
_LEFT_BEHIND_S: Final = 3600
"""A half-written folder this old belongs to a writer that died."""


class DiskCache:
    """One folder per digest.

    `limit_mib` bounds the total size on disk; entries in use stay even above that limit.
    """

    def __init__(self, folder: Path, limit_mib: int) -> None:
        self.path = folder.resolve()
        self._limit_bytes = limit_mib * 1024 * 1024

    def touch(self, digest: str) -> bool:
        """Mark the entry as used now; False if it is not on disk."""
        try:
            os.utime(self.path / digest)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def locked(self, digest: str) -> Iterator[None]:
        """Hold the entry's lock, which one process has at a time; waiting blocks the thread."""
        descriptor = _lock(self._lock_path(digest))
        try:
            yield
        finally:
            os.close(descriptor)

    @contextlib.asynccontextmanager
    async def locked_in_thread(self, digest: str) -> AsyncIterator[None]:
        """Hold the entry's lock like `locked`, waiting for it in a thread."""
        locking = asyncio.ensure_future(asyncio.to_thread(_lock, self._lock_path(digest)))
        try:
            descriptor = await asyncio.shield(locking)
        except asyncio.CancelledError:
            locking.add_done_callback(lambda done: os.close(done.result()))
            raise
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def writing(self, digest: str) -> Iterator[Path]:
        """Yield an empty folder, which becomes the digest's entry unless the block raises.

        The caller holds the entry's lock.
        """
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.path))
        try:
            yield temporary
            sealed_bytes = seal(temporary)
            self._lock_path(digest).write_text(str(sealed_bytes))
            temporary.rename(self.path / digest)
        except BaseException:
            remove(temporary)
            raise

    def evict(self) -> None:
        """Remove the least recently used entries until the rest fits the limit.

        Entries that a sandbox may still read are kept.
        """
        with self.locked("evict"):
            found = []
            for path in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another worker may prune at the same time
                    if not path.name.startswith("."):
                        found.append((path.lstat().st_mtime, path, self._size_bytes(path)))
            total_bytes = sum(size for _, _, size in found)
            for used_s, path, size_bytes in sorted(found):
                if total_bytes <= self._limit_bytes or time.time() - used_s < IN_USE_S:
                    return
                # Renamed first, because a folder named by a digest must always be complete.
                evicted = self.path / f".new-evicted-{path.name}"
                path.rename(evicted)
                remove(evicted)
                total_bytes -= size_bytes

    def prune(self) -> None:
        """Make the cache folder and remove entries unused for two weeks and half-written ones.

        Raises:
            OSError: the folder cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Sandboxes may run as another user. It must reach the files, but not list other entries.
        self.path.chmod(0o711)
        now_s = time.time()
        for path in self.path.iterdir():
            age_s = now_s - path.lstat().st_mtime
            if path.name.endswith(".lock"):
                continue
            if age_s > (_LEFT_BEHIND_S if path.name.startswith(".new-") else UNUSED_S):
                remove(path)

    def _lock_path(self, digest: str) -> Path:
        return self.path / f".{digest}.lock"

    def _size_bytes(self, path: Path) -> int:
        """Return the size that `writing` recorded in the lock file, or else measure it."""
        try:
            return int(self._lock_path(path.name).read_text() or 0)
        except (FileNotFoundError, ValueError):
            return sum(file.lstat().st_size for file in path.rglob("*"))


def remove(folder: Path) -> None:
    """Delete a read-only folder with everything in it."""
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
        inner.chmod(0o755)
    shutil.rmtree(folder)


def seal(folder: Path) -> int:
    """Make all folders below this one read-only; return the bytes that the files take on disk."""
    size_bytes = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.chmod(0o555)
        else:
            size_bytes += -(-path.lstat().st_size // _BLOCK_BYTES) * _BLOCK_BYTES
    # The worker must still rename this folder, for which rename(2) needs write permission on it,
    # and remove it.
    folder.chmod(0o755)
    return size_bytes


def _lock(path: Path) -> int:
    """Take the lock with flock(2), which the kernel releases when its holder dies."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
