"""The bundles of versions on this machine, with their dependencies.

Each is fetched and unpacked once and read-only from then on.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from sandlot.functions import Bundle, Registry, Version
from sandlot.functions.dependencies import Lock
from sandlot.secret_store import SecretStore
from worker.disk_cache import DiskCache, seal
from worker.execution import VersionSpec

REPORT_S: Final = 60.0


class BundleCache:
    """The specs of the versions that this worker runs; workers of one machine share the files."""

    def __init__(
        self,
        registry: Registry,
        secret_store: SecretStore,
        cache: DiskCache,
        packages_of: Callable[[Lock, str], Awaitable[Path]],
    ) -> None:
        """
        Args:
            packages_of: returns a folder in the same cache with the packages of a lock for a
                function, installed first if they are missing.
        """
        self._registry = registry
        self._cache = cache
        self._packages_of = packages_of
        self._secret_store = secret_store
        self.revealed: Final[dict[tuple[str, str], set[str]]] = {}
        """By function and digest, every secret value that this process gave to sandboxes of that
        version. A version without secrets has no entry."""
        self._reports: asyncio.Task[None] | None = None
        self._specs: dict[tuple[str, str], VersionSpec] = {}
        self._fetches: dict[tuple[str, str], asyncio.Task[VersionSpec]] = {}

    async def open(self) -> None:
        """Make the cache folder and remove entries that have been unused for long.

        Raises:
            OSError: the folder cannot be made.
        """
        await asyncio.to_thread(self._cache.prune)

    async def close(self) -> None:
        """Abandon the fetches in progress."""
        tasks: list[asyncio.Task[Any]] = list(self._fetches.values())
        if self._reports is not None:
            tasks.append(self._reports)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def report_use(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Touch the folders in use every minute, so that no worker of this machine evicts them.

        Args:
            in_use: returns the digests of the versions in use.
        """
        self._reports = asyncio.create_task(self._touch_in_use(in_use), name="bundles in use")

    async def _touch_in_use(self, in_use: Callable[[], Iterable[str]]) -> None:
        while True:
            for digest in set(in_use()):
                self._cache.touch(digest)
            await asyncio.sleep(REPORT_S)

    async def spec(self, function: str, digest: str) -> VersionSpec:
        """Return the spec of a version whose files are on this machine's disk, fetching them first.

        Concurrent calls for the same version share one fetch.

        Raises:
            VersionNotFound, UnsafeRecord, QueueUnavailable: from the registry.
            SecretNotFound: it names a secret that does not exist for this function.
            SandlotError: its dependencies cannot be installed here.
            OSError: the files cannot be written to disk.
        """
        known = self._specs.get((function, digest))
        if known is not None and self._is_on_disk(known):  # its files may have been evicted meanwhile
            return await self._with_secrets(known)
        task = self._fetches.get((function, digest))
        if task is None:
            task = asyncio.create_task(self._fetch(function, digest), name=f"fetch {function} {digest[:12]}")
            self._fetches[function, digest] = task
            task.add_done_callback(lambda done: self._on_fetched(function, digest, done))
        # Cancelling one waiter must not cancel the fetch that others wait for.
        return await self._with_secrets(await asyncio.shield(task))

    def _is_on_disk(self, spec: VersionSpec) -> bool:
        folders = [spec.bundle_dir] if spec.packages_dir is None else [spec.bundle_dir, spec.packages_dir]
        touched = [self._cache.touch(folder.name) for folder in folders]  # a list: each counts as used
        return all(touched)

    async def _with_secrets(self, spec: VersionSpec) -> VersionSpec:
        """Add the secrets' values; each new sandbox reads them again and so gets changed ones."""
        if not spec.secret_names:
            return spec
        values = await self._secret_store.reveal(spec.function, spec.secret_names)
        self.revealed.setdefault((spec.function, spec.digest), set()).update(values.values())
        return dataclasses.replace(spec, secrets=values)

    def _on_fetched(self, function: str, digest: str, task: asyncio.Task[VersionSpec]) -> None:
        del self._fetches[function, digest]
        if not task.cancelled() and task.exception() is None:
            self._specs[function, digest] = task.result()

    async def _fetch(self, function: str, digest: str) -> VersionSpec:
        version = await self._registry.version(function, digest)
        if not await asyncio.to_thread(self._cache.touch, digest):
            bundle = await self._registry.bundle(digest)
            await asyncio.to_thread(self._unpack, bundle, digest)
            await asyncio.to_thread(self._cache.evict)
        packages = None
        if version.manifest.dependencies:
            packages = await self._packages_of(await self._registry.lock(version), version.function)
        return spec_of(version, self._cache.path / digest, packages)

    def _unpack(self, bundle: Bundle, digest: str) -> None:
        with self._cache.locked(digest):
            if self._cache.touch(digest):
                return
            with self._cache.writing(digest) as folder:
                write_bundle(bundle, folder)


def spec_of(version: Version, bundle_dir: Path, packages_dir: Path | None = None) -> VersionSpec:
    """Return a version as a sandbox needs it, with its secrets by name only."""
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
    """Write a bundle's files, readable by all users and writable by none.

    The paths need no check: `Bundle` checked them when it was built.
    """
    for name, content in bundle.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
    seal(folder)
