"""A folder of complete, read-only folders that the worker processes of a machine share: bundles, and trees of packages.

Knows: how several processes fill and bound it together. Does not know: what is in a folder; Redis, sandboxes.
A folder named by a digest is complete: it is written beside, and renamed when the last file is on disk.
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
"""What nobody on this machine has asked for in two weeks is made again when somebody does."""
IN_USE_S: Final = 600.0
"""What was used within this time is never evicted: a sandbox may still read its files. Ten times as long as the pause between
two reports of what is in use, so that a worker may be late."""
_BLOCK_BYTES: Final = 4096
_LEFT_BEHIND_S: Final = 3600
"""A half-written folder this old is one whose writer died."""


class DiskCache:
    """One folder per digest. `limit_mib` bounds what is on disk, except for what is in use: that stays, whatever it takes."""

    def __init__(self, folder: Path, limit_mib: int) -> None:
        self.path = folder.resolve()
        self._limit_bytes = limit_mib * 1024 * 1024

    def touch(self, digest: str) -> bool:
        """Whether it is on disk; if so it counts as used now."""
        try:
            os.utime(self.path / digest)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def locked(self, digest: str) -> Iterator[None]:
        """One process at a time; blocks."""
        descriptor = _lock(self._lock_path(digest))
        try:
            yield
        finally:
            os.close(descriptor)

    @contextlib.asynccontextmanager
    async def held(self, digest: str) -> AsyncIterator[None]:
        """The same for what takes long and is awaited."""
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
        """An empty folder to write into, which becomes the digest's when all went well. Whoever writes holds the lock."""
        beside = Path(tempfile.mkdtemp(prefix=".new-", dir=self.path))
        try:
            yield beside
            sealed_bytes = seal(beside)
            self._lock_path(digest).write_text(str(sealed_bytes))
            beside.rename(self.path / digest)
        except BaseException:
            remove(beside)
            raise

    def evict(self) -> None:
        """Remove what was not used for longest until the rest fits, but nothing that a sandbox may still read."""
        with self.locked("evict"):
            found = []
            for path in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another worker prunes as well
                    if not path.name.startswith("."):
                        found.append((path.lstat().st_mtime, path, self._size_bytes(path)))
            total_bytes = sum(size for _, _, size in found)
            for used_s, path, size_bytes in sorted(found):
                if total_bytes <= self._limit_bytes or time.time() - used_s < IN_USE_S:
                    return
                # Renamed first: a folder named by a digest is complete, always.
                gone = self.path / f".new-evicted-{path.name}"
                path.rename(gone)
                remove(gone)
                total_bytes -= size_bytes

    def prune(self) -> None:
        """Make the folder, and throw out what nobody has used for long.

        Raises:
            OSError: the folder cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Sandboxes may run as another user, who has to reach the files but not to list what else is there.
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
        """As it was written down when the folder was complete."""
        try:
            return int(self._lock_path(path.name).read_text() or 0)
        except (FileNotFoundError, ValueError):
            return sum(file.lstat().st_size for file in path.rglob("*"))


def remove(folder: Path) -> None:
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
        inner.chmod(0o755)
    shutil.rmtree(folder)


def seal(folder: Path) -> int:
    """Folders end up readable by all and writable by nobody; returns what the files take on disk."""
    size_bytes = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.chmod(0o555)
        else:
            size_bytes += -(-path.lstat().st_size // _BLOCK_BYTES) * _BLOCK_BYTES
    folder.chmod(0o755)  # still ours to rename (rename(2) of a folder needs write permission on it) and to remove
    return size_bytes


def _lock(path: Path) -> int:
    """flock(2): the kernel lets go of it when its holder dies, however it does."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
