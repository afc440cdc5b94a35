"""The code of versions on this machine: fetched once, unpacked once, read-only from then on.

Knows: the cache folder and how several processes share it. Does not know: Redis's keys, sandboxes, jobs.
A folder named by a digest is complete: it is written beside, and renamed when the last file is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sandlot.functions import Bundle, Registry, Version
from sandlot.vault import Vault
from worker.execution import VersionSpec

UNUSED_S: Final = 14 * 86_400
"""A version nobody on this machine has asked for in two weeks is unpacked again when somebody does."""
LIMIT_MIB: Final = 4096
IN_USE_S: Final = 600.0
"""A version that was used within this time is never evicted: a sandbox may still read its files. Ten times as long as the pause between
two reports of what is in use, so that a worker may be late."""
REPORT_S: Final = 60.0
_NONE: Final[frozenset[str]] = frozenset()
_BLOCK_BYTES: Final = 4096
_LEFT_BEHIND_S: Final = 3600
"""A half-written folder this old is one whose writer died."""


class BundleCache:
    """`folder` holds one folder per digest; every worker process of this machine may use the same one."""

    def __init__(self, registry: Registry, vault: Vault, folder: Path, limit_mib: int = LIMIT_MIB) -> None:
        """`limit_mib` bounds what is on disk, except for versions in use: they stay, whatever they take."""
        self._registry = registry
        self._folder = folder.resolve()
        self._limit_bytes = limit_mib * 1024 * 1024
        self._vault = vault
        self._revealed: dict[tuple[str, str], set[str]] = {}
        self._reports: asyncio.Task[None] | None = None
        self._specs: dict[tuple[str, str], VersionSpec] = {}
        self._coming: dict[tuple[str, str], asyncio.Task[VersionSpec]] = {}

    async def open(self) -> None:
        """Make the folder and throw out what nobody has used for long.

        Raises:
            OSError: the folder cannot be made.
        """
        await asyncio.to_thread(self._prune)

    async def close(self) -> None:
        """Abandon what is still being fetched."""
        coming: list[asyncio.Task[Any]] = list(self._coming.values())
        if self._reports is not None:
            coming.append(self._reports)
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    def keep(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Ask every minute which digests are in use, and let every worker of this machine know by their folders' times."""
        self._reports = asyncio.create_task(self._report(in_use), name="bundles in use")

    async def _report(self, in_use: Callable[[], Iterable[str]]) -> None:
        while True:
            for digest in set(in_use()):
                _touched(self._folder / digest)
            await asyncio.sleep(REPORT_S)

    async def spec(self, function: str, digest: str) -> VersionSpec:
        """The version, its files on this machine's disk. Whoever asks while it is being fetched waits for the same fetch.

        Raises:
            VersionNotFound, UnsafeRecord, QueueUnavailable: from the registry.
            SecretNotFound: it names a secret that is not there for it.
            OSError: the disk does not take the files.
        """
        known = self._specs.get((function, digest))
        if known is not None and _touched(known.bundle_dir):  # somebody may have tidied up under us
            return await self._with_secrets(known)
        task = self._coming.get((function, digest))
        if task is None:
            task = asyncio.create_task(self._fetch(function, digest), name=f"fetch {function} {digest[:12]}")
            self._coming[function, digest] = task
            task.add_done_callback(lambda done: self._arrived(function, digest, done))
        # One waiter that gives up must not take the fetch from the others.
        return await self._with_secrets(await asyncio.shield(task))

    async def _with_secrets(self, spec: VersionSpec) -> VersionSpec:
        """Opened for each new sandbox, so that a changed value is in the next one."""
        if not spec.secret_names:
            return spec
        opened = await self._vault.reveal(spec.function, spec.secret_names)
        self._revealed.setdefault((spec.function, spec.digest), set()).update(opened.values())
        return dataclasses.replace(spec, secrets=opened)

    def revealed(self, function: str, digest: str) -> Set[str]:
        """Every value that sandboxes of this version were given since this process started."""
        return self._revealed.get((function, digest), _NONE)

    def _arrived(self, function: str, digest: str, task: asyncio.Task[VersionSpec]) -> None:
        del self._coming[function, digest]
        if not task.cancelled() and task.exception() is None:
            self._specs[function, digest] = task.result()

    async def _fetch(self, function: str, digest: str) -> VersionSpec:
        version = await self._registry.version(function, digest)
        target = self._folder / digest
        if not await asyncio.to_thread(_touched, target):
            bundle = await self._registry.bundle(digest)
            await asyncio.to_thread(self._unpack, bundle, target)
            await asyncio.to_thread(self._evict)
        return spec_of(version, target)

    def _unpack(self, bundle: Bundle, target: Path) -> None:
        with _locked(self._folder / f".{target.name}.lock"):
            if target.is_dir():
                return
            beside = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            try:
                write_bundle(bundle, beside)
                size_bytes = sum(-(-len(content) // _BLOCK_BYTES) * _BLOCK_BYTES for content in bundle.files.values())
                (self._folder / f".{target.name}.lock").write_text(str(size_bytes))
                beside.rename(target)
            except BaseException:
                _remove(beside)
                raise

    def _evict(self) -> None:
        """Remove the versions that were not used for longest until the rest fits, but none that a sandbox may still read."""
        with _locked(self._folder / ".evict.lock"):
            found = []
            for path in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another worker prunes as well
                    if not path.name.startswith("."):
                        found.append((path.lstat().st_mtime, path, self._size_bytes(path)))
            total_bytes = sum(size for _, _, size in found)
            for used_s, path, size_bytes in sorted(found):
                if total_bytes <= self._limit_bytes or time.time() - used_s < IN_USE_S:
                    return
                # Renamed first: a folder named by a digest is complete, always.
                gone = self._folder / f".new-evicted-{path.name}"
                path.rename(gone)
                _remove(gone)
                total_bytes -= size_bytes

    def _size_bytes(self, path: Path) -> int:
        """As it was written down when the version was unpacked."""
        try:
            return int((self._folder / f".{path.name}.lock").read_text() or 0)
        except (FileNotFoundError, ValueError):
            return sum(file.lstat().st_size for file in path.rglob("*"))

    def _prune(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Sandboxes may run as another user, who has to reach the files but not to list what else is there.
        self._folder.chmod(0o711)
        now_s = time.time()
        for path in self._folder.iterdir():
            age_s = now_s - path.lstat().st_mtime
            if path.name.endswith(".lock"):
                continue
            if age_s > (_LEFT_BEHIND_S if path.name.startswith(".new-") else UNUSED_S):
                _remove(path)


def spec_of(version: Version, bundle_dir: Path) -> VersionSpec:
    """The version as a sandbox needs it, its files in `bundle_dir`; its secrets by name only."""
    manifest = version.manifest
    return VersionSpec(
        function=version.function,
        version=version.number,
        digest=version.digest,
        runtime=manifest.runtime,
        handler=manifest.handler,
        bundle_dir=bundle_dir,
        memory_limit_mib=manifest.memory_mib,
        isolation=manifest.isolation,
        environment=dict(manifest.environment),
        secret_names=manifest.secrets,
        log_limit_bytes=manifest.log_limit_bytes,
        network=() if manifest.network == "none" else manifest.network,
        walls=manifest.walls,
    )


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Bundle's paths were checked when it was built; files and folders end up readable by all and writable by nobody."""
    for name, content in bundle.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        inner.chmod(0o555)
    folder.chmod(0o755)  # still ours to rename (rename(2) of a folder needs write permission on it) and to remove


def _touched(target: Path) -> bool:
    """Whether the version is on disk; if so it counts as used now."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def _remove(folder: Path) -> None:
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
        inner.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """flock(2): the kernel lets go of it when its holder dies, however it does."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
