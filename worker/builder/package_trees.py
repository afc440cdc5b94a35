"""Installed packages on this machine: one tree per lock, built once and shared read-only.

Every version with the same lock uses the same tree. One process builds a tree while the others on
the machine wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from sandlot.errors import IsolationMissing, RuntimeUnavailable
from sandlot.functions import Manifest
from sandlot.functions.dependencies import Lock
from sandlot.models import Runtime
from worker.builder.build_sandbox import BuildSandbox
from worker.builder.indexes import PackageIndexes, provide_uv, tree_name
from worker.disk_cache import DiskCache
from worker.sandbox.host import SandboxHost

_log: Final = logging.getLogger(__name__)


class PackageTrees:
    """The trees in the machine's disk cache, and the builds that add to them."""

    def __init__(
        self, host: SandboxHost, indexes: PackageIndexes, cache: DiskCache, *, limit_mib: int, limit_s: float
    ) -> None:
        """
        Args:
            limit_mib: for one tree.
            limit_s: for resolving, and again for installing.
        """
        self._host = host
        self._indexes = indexes
        self._cache = cache
        self._limit_mib = limit_mib
        self._limit_s = limit_s
        self._builds: dict[str, asyncio.Task[Path]] = {}

    async def close(self) -> None:
        """Abandon the builds in progress."""
        builds = list(self._builds.values())
        for task in builds:
            task.cancel()
        await asyncio.gather(*builds, return_exceptions=True)

    def obstacle(self, runtime: Runtime) -> str:
        """Say why this worker cannot build for a runtime; empty if it can."""
        if self._host.level != "strict":
            return (
                "dependencies are built behind a network namespace, and this worker's sandboxes are restricted: "
                "they have none. Without it a build could reach more than the package index "
                "(docs/sandbox.md, Builds). "
                f"Give the function's worker strict sandboxes. Here: {self._host.why_not_strict}"
            )
        return self._indexes.obstacle(runtime)

    async def sandbox(self, runtime: Runtime) -> BuildSandbox:
        """Return a sandbox to build in, not open yet.

        Raises:
            IsolationMissing, RuntimeUnavailable: this worker cannot build for the runtime.
        """
        if obstacle := self.obstacle(runtime):
            raise IsolationMissing(obstacle) if self._host.level != "strict" else RuntimeUnavailable(obstacle)
        if runtime is Runtime.PYTHON:
            await asyncio.to_thread(provide_uv, self._indexes.tools[runtime])
        return BuildSandbox(self._host, runtime, self._indexes, self._limit_mib, self._limit_s)

    async def tree(self, lock: Lock) -> Path:
        """Return the folder with the packages of a lock, building it first if it is missing.

        Concurrent calls for the same lock share one build.

        Raises:
            BuildFailed: the packages cannot be installed.
            IsolationMissing, RuntimeUnavailable, SandboxUnavailable: not on this machine.
            OSError: the files cannot be written to disk.
        """
        name = tree_name(lock.digest, lock.runtime)
        task = self._builds.get(name)
        if task is None:
            if await asyncio.to_thread(self._cache.touch, name):
                return self._cache.path / name
            task = self._builds.get(name) or asyncio.create_task(self._build(name, lock), name=f"build {name[:12]}")
            self._builds[name] = task
            task.add_done_callback(lambda _done: self._builds.pop(name, None))
        return await asyncio.shield(task)

    async def _build(self, name: str, lock: Lock) -> Path:
        async with self._cache.locked_in_thread(name):
            if not self._cache.touch(name):
                async with await self.sandbox(lock.runtime) as sandbox:
                    await self._install(name, lock, sandbox)
        return self._cache.path / name

    async def resolve(self, manifest: Manifest, sandbox: BuildSandbox) -> Lock:
        """Lock a manifest's dependencies and, unless this machine has their tree, build it.

        Raises:
            BuildFailed: the dependencies cannot be resolved or installed.
            OSError: the files cannot be written to disk.
        """
        text = await sandbox.resolve(manifest.dependencies, source_builds=manifest.source_builds)
        lock = Lock(runtime=manifest.runtime, text=text, source_builds=manifest.source_builds)
        name = tree_name(lock.digest, lock.runtime)
        async with self._cache.locked_in_thread(name):
            if not self._cache.touch(name):
                await self._install(name, lock, sandbox)
        return lock

    async def _install(self, name: str, lock: Lock, sandbox: BuildSandbox) -> None:
        """Install a lock and copy the tree into the cache; the caller holds the tree's lock."""
        began_s = time.monotonic()
        files = await sandbox.install(lock.text, source_builds=lock.source_builds)
        with self._cache.writing(name) as folder:
            await sandbox.copy(files, folder)
        await asyncio.to_thread(self._cache.evict)
        _log.info(
            "packages",
            extra={"tree": name[:12], "files": len(files), "took_s": round(time.monotonic() - began_s, 3)},
        )
