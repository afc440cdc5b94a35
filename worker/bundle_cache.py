"""The code of versions on this machine, and what it depends on: fetched once, unpacked once, read-only from then on.

Knows: which folders of the cache a version needs. Does not know: Redis's keys, sandboxes, jobs, how packages are installed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Set
from pathlib import Path
from typing import Any, Final

from sandlot.functions import Bundle, Registry, Version
from sandlot.functions.dependencies import Lock
from sandlot.secret_store import SecretStore
from worker.disk_cache import DiskCache, seal
from worker.execution import VersionSpec

REPORT_S: Final = 60.0
_NONE: Final[frozenset[str]] = frozenset()


class BundleCache:
    """Every worker process of this machine may use the same folder."""

    def __init__(
        self,
        registry: Registry,
        secrets: SecretStore,
        folder: DiskCache,
        packages_of: Callable[[Lock], Awaitable[Path]],
    ) -> None:
        """
        Args:
            packages_of: a folder in the same cache with what this lock names, installed if it is not there yet.
        """
        self._registry = registry
        self._folder = folder
        self._packages_of = packages_of
        self._secrets = secrets
        self._revealed: dict[tuple[str, str], set[str]] = {}
        self._reports: asyncio.Task[None] | None = None
        self._specs: dict[tuple[str, str], VersionSpec] = {}
        self._coming: dict[tuple[str, str], asyncio.Task[VersionSpec]] = {}

    async def open(self) -> None:
        """Make the folder and throw out what nobody has used for long.

        Raises:
            OSError: the folder cannot be made.
        """
        await asyncio.to_thread(self._folder.prune)

    async def close(self) -> None:
        """Abandon what is still being fetched."""
        coming: list[asyncio.Task[Any]] = list(self._coming.values())
        if self._reports is not None:
            coming.append(self._reports)
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    def keep(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Ask every minute which folders are in use, and let every worker of this machine know by the folders' times."""
        self._reports = asyncio.create_task(self._report(in_use), name="bundles in use")

    async def _report(self, in_use: Callable[[], Iterable[str]]) -> None:
        while True:
            for digest in set(in_use()):
                self._folder.touch(digest)
            await asyncio.sleep(REPORT_S)

    async def spec(self, function: str, digest: str) -> VersionSpec:
        """The version, its files on this machine's disk. Whoever asks while it is being fetched waits for the same fetch.

        Raises:
            VersionNotFound, UnsafeRecord, QueueUnavailable: from the registry.
            SecretNotFound: it names a secret that is not there for it.
            SandlotError: what it depends on cannot be installed here.
            OSError: the disk does not take the files.
        """
        known = self._specs.get((function, digest))
        if known is not None and self._is_there(known):  # somebody may have tidied up under us
            return await self._with_secrets(known)
        task = self._coming.get((function, digest))
        if task is None:
            task = asyncio.create_task(self._fetch(function, digest), name=f"fetch {function} {digest[:12]}")
            self._coming[function, digest] = task
            task.add_done_callback(lambda done: self._arrived(function, digest, done))
        # One waiter that gives up must not take the fetch from the others.
        return await self._with_secrets(await asyncio.shield(task))

    def _is_there(self, spec: VersionSpec) -> bool:
        folders = [spec.bundle_dir] if spec.packages_dir is None else [spec.bundle_dir, spec.packages_dir]
        touched = [self._folder.touch(folder.name) for folder in folders]  # each of them counts as used
        return all(touched)

    async def _with_secrets(self, spec: VersionSpec) -> VersionSpec:
        """Opened for each new sandbox, so that a changed value is in the next one."""
        if not spec.secret_names:
            return spec
        opened = await self._secrets.reveal(spec.function, spec.secret_names)
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
        if not await asyncio.to_thread(self._folder.touch, digest):
            bundle = await self._registry.bundle(digest)
            await asyncio.to_thread(self._unpack, bundle, digest)
            await asyncio.to_thread(self._folder.evict)
        packages = None
        if version.manifest.dependencies:
            packages = await self._packages_of(await self._registry.lock(version))
        return spec_of(version, self._folder.path / digest, packages)

    def _unpack(self, bundle: Bundle, digest: str) -> None:
        with self._folder.locked(digest):
            if self._folder.touch(digest):
                return
            with self._folder.writing(digest) as folder:
                write_bundle(bundle, folder)


def spec_of(version: Version, bundle_dir: Path, packages_dir: Path | None = None) -> VersionSpec:
    """The version as a sandbox needs it, its files in `bundle_dir`; its secrets by name only."""
    manifest = version.manifest
    return VersionSpec(
        function=version.function,
        version=version.number,
        digest=version.digest,
        runtime=manifest.runtime,
        handler=manifest.handler,
        bundle_dir=bundle_dir,
        packages_dir=packages_dir,
        memory_limit_mib=manifest.memory_mib,
        isolation=manifest.isolation,
        environment=dict(manifest.environment),
        secret_names=manifest.secrets,
        log_limit_bytes=manifest.log_limit_bytes,
        network=() if manifest.network == "none" else manifest.network,
        require=manifest.require,
    )


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Bundle's paths were checked when it was built; files and folders end up readable by all and writable by nobody."""
    for name, content in bundle.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
    seal(folder)
