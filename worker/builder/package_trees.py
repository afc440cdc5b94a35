"""Installed packages on this machine: one tree per lock, built once, shared read-only by every version with that lock.

Knows: when a tree has to be built, and that one process does it while others wait. Does not know: Redis, versions.
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
from worker.builder.indexes import Sources, provide_uv, tree_name
from worker.disk_cache import DiskCache
from worker.sandbox.host import SandboxHost

_log: Final = logging.getLogger(__name__)


class PackageTrees:
    def __init__(
        self, host: SandboxHost, sources: Sources, folder: DiskCache, *, limit_mib: int, limit_s: float
    ) -> None:
        """
        Args:
            limit_mib: for one tree.
            limit_s: for resolving, and for installing.
        """
        self._host = host
        self._sources = sources
        self._folder = folder
        self._limit_mib = limit_mib
        self._limit_s = limit_s
        self._coming: dict[str, asyncio.Task[Path]] = {}

    async def close(self) -> None:
        """Abandon what is being built."""
        coming = list(self._coming.values())
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    def obstacle(self, runtime: Runtime) -> str:
        """Why nothing can be built for this runtime here; empty if it can."""
        if self._host.level != "strict":
            return (
                "dependencies are built behind a network namespace, and this worker's sandboxes are restricted: there is none. "
                "Without it a build could reach more than the package index (docs/sandbox.md, Builds). "
                f"Give the function's worker strict sandboxes. Here: {self._host.why_not_strict}"
            )
        return self._sources.obstacle(runtime)

    async def sandbox(self, runtime: Runtime) -> BuildSandbox:
        """A sandbox to build in, not open yet.

        Raises:
            IsolationMissing, RuntimeUnavailable: there can be none here.
        """
        if obstacle := self.obstacle(runtime):
            raise IsolationMissing(obstacle) if self._host.level != "strict" else RuntimeUnavailable(obstacle)
        if runtime is Runtime.PYTHON:
            await asyncio.to_thread(provide_uv, self._sources.tools[runtime])
        return BuildSandbox(self._host, runtime, self._sources, self._limit_mib, self._limit_s)

    async def tree(self, lock: Lock) -> Path:
        """The folder of what this lock names. Whoever asks while it is being built waits for the same build.

        Raises:
            BuildFailed: it cannot be installed.
            IsolationMissing, RuntimeUnavailable, SandboxUnavailable: not on this machine.
            OSError: the disk does not take it.
        """
        name = tree_name(lock.digest, lock.runtime)
        task = self._coming.get(name)
        if task is None:
            if await asyncio.to_thread(self._folder.touch, name):
                return self._folder.path / name
            task = self._coming.get(name) or asyncio.create_task(self._build(name, lock), name=f"build {name[:12]}")
            self._coming[name] = task
            task.add_done_callback(lambda _done: self._coming.pop(name, None))
        return await asyncio.shield(task)

    async def _build(self, name: str, lock: Lock) -> Path:
        async with self._folder.held(name):
            if not self._folder.touch(name):
                async with await self.sandbox(lock.runtime) as sandbox:
                    await self._add(name, lock, sandbox)
        return self._folder.path / name

    async def resolve(self, manifest: Manifest, sandbox: BuildSandbox) -> Lock:
        """Lock what a manifest depends on, and build that in the same sandbox unless this machine has it.

        Raises:
            BuildFailed: there is no such lock, or it cannot be installed.
            OSError: the disk does not take it.
        """
        text = await sandbox.resolve(manifest.dependencies, source_builds=manifest.source_builds)
        lock = Lock(runtime=manifest.runtime, text=text, source_builds=manifest.source_builds)
        name = tree_name(lock.digest, lock.runtime)
        async with self._folder.held(name):
            if not self._folder.touch(name):
                await self._add(name, lock, sandbox)
        return lock

    async def _add(self, name: str, lock: Lock, sandbox: BuildSandbox) -> None:
        """Install and copy; whoever calls this holds the tree's lock."""
        began_s = time.monotonic()
        files = await sandbox.install(lock.text, source_builds=lock.source_builds)
        with self._folder.writing(name) as folder:
            await sandbox.copy(files, folder)
        await asyncio.to_thread(self._folder.evict)
        _log.info(
            "packages",
            extra={"tree": name[:12], "files": len(files), "took_s": round(time.monotonic() - began_s, 3)},
        )
