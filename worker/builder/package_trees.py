"""Installed packages on this machine: trees that are built once and shared read-only.

Versions with the same lock use the same tree; if packages may be built from source, only versions
of one function do. One process builds a tree while the others on the machine wait for it.

Resolving and installing never share a sandbox. The lock leaves the resolver's sandbox, is checked,
and is all that the installing sandbox gets: a package that ran code while the dependencies were
resolved has no part in what is installed, nor in the name that it is kept under.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
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

OnSandbox = Callable[[BuildSandbox], None]

_log: Final = logging.getLogger(__name__)


class PackageTrees:
    """The trees in the machine's disk cache, and the builds that add to them."""

    def __init__(
        self,
        host: SandboxHost,
        indexes: PackageIndexes,
        cache: DiskCache,
        *,
        limit_mib: int,
        resolve_limit_s: float,
        install_limit_s: float,
    ) -> None:
        """
        Args:
            limit_mib: for one tree.
        """
        self._host = host
        self._indexes = indexes
        self._cache = cache
        self._limit_mib = limit_mib
        self._resolve_limit_s = resolve_limit_s
        self._install_limit_s = install_limit_s
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

    async def resolve(self, manifest: Manifest, on_sandbox: OnSandbox | None = None) -> Lock:
        """Lock a manifest's dependencies, in a sandbox that installs nothing.

        Args:
            on_sandbox: called with the sandbox, which knows the progress.

        Raises:
            BuildFailed: the dependencies cannot be resolved.
            IsolationMissing, RuntimeUnavailable, SandboxUnavailable: not on this machine.
        """
        async with await self.sandbox(manifest.runtime, self._resolve_limit_s) as sandbox:
            if on_sandbox is not None:
                on_sandbox(sandbox)
            text = await sandbox.resolve(manifest.dependencies, source_builds=manifest.source_builds)
        return Lock(runtime=manifest.runtime, text=text, source_builds=manifest.source_builds)

    async def tree(self, lock: Lock, function: str, on_sandbox: OnSandbox | None = None) -> Path:
        """Return the folder with the packages of a lock, building it first if it is missing.

        Concurrent calls for the same tree share one build.

        Args:
            function: whose versions share the tree if packages may be built from source.
            on_sandbox: called with the sandbox that installs, if this call starts one.

        Raises:
            BuildFailed: the packages cannot be installed.
            IsolationMissing, RuntimeUnavailable, SandboxUnavailable: not on this machine.
            OSError: the files cannot be written to disk.
        """
        name = tree_name(lock, function)
        task = self._builds.get(name)
        if task is None:
            if await asyncio.to_thread(self._cache.touch, name):
                return self._cache.path / name
            task = self._builds.get(name) or asyncio.create_task(
                self._build(name, lock, on_sandbox), name=f"build {name[:12]}"
            )
            self._builds[name] = task
            task.add_done_callback(lambda _done: self._builds.pop(name, None))
        return await asyncio.shield(task)

    async def sandbox(self, runtime: Runtime, limit_s: float) -> BuildSandbox:
        """Return a sandbox for one step of a build, not open yet.

        Raises:
            IsolationMissing, RuntimeUnavailable: this worker cannot build for the runtime.
        """
        if obstacle := self.obstacle(runtime):
            raise IsolationMissing(obstacle) if self._host.level != "strict" else RuntimeUnavailable(obstacle)
        if runtime is Runtime.PYTHON:
            await asyncio.to_thread(provide_uv, self._indexes.tools[runtime])
        return BuildSandbox(self._host, runtime, self._indexes, self._limit_mib, limit_s)

    async def _build(self, name: str, lock: Lock, on_sandbox: OnSandbox | None) -> Path:
        """Install a lock in a sandbox of its own and copy the tree into the cache."""
        async with self._cache.locked_in_thread(name):
            if not self._cache.touch(name):
                async with await self.sandbox(lock.runtime, self._install_limit_s) as sandbox:
                    if on_sandbox is not None:
                        on_sandbox(sandbox)
                    await self._install(name, lock, sandbox)
        return self._cache.path / name

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
