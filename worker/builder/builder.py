"""The worker's builder: claims requested builds, one at a time, and records their results.

A worker that dies during a build loses its lease. A few seconds later another worker starts the
build from the beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from sandlot.errors import QueueUnavailable, SandlotError
from sandlot.functions.builds import ATTEMPTS_LIMIT, LEASE_MS, Build, BuildQueue
from sandlot.functions.dependencies import Lock
from sandlot.models import Runtime
from sandlot.placement import runtime_of
from sandlot.redis.connection import end_task
from sandlot.redis.invalidation import Invalidation
from sandlot.redis.keys import BUILDS_CHANGED
from worker.builder.package_trees import PackageTrees

_CHECK_S: Final = LEASE_MS / 1000 / 2
"""Interval between checks for expired leases of other workers; new builds arrive by Pub/Sub."""
_HEARTBEAT_S: Final = 1.0
_RECORD_TRIES: Final = 5
_PATIENCE_MS: Final = 20_000
"""A worker that cannot build leaves a build to one that can for this long, then says why."""

_log: Final = logging.getLogger(__name__)


class Builder:
    """A background task that builds; `close` abandons a running build to another worker."""

    def __init__(self, redis: Redis, builds: BuildQueue, trees: PackageTrees, placements: Sequence[str]) -> None:
        self._builds = builds
        self._trees = trees
        self._placements = placements
        self._wake = asyncio.Event()
        self._invalidation = Invalidation(redis, BUILDS_CHANGED, lambda _placement: self._wake.set())
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._invalidation.start()
        self._task = asyncio.create_task(self._run(), name="builder")

    async def close(self) -> None:
        await self._invalidation.stop()
        await end_task(self._task)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                build = await self._builds.claim(self._placements, self._patience_ms())
                if build is not None:
                    await self._build(build)
                    continue
            except QueueUnavailable as error:
                _log.warning("builds_unavailable", extra={"error": error.message})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self._wake.wait()

    async def _build(self, build: Build) -> None:
        """Run one build until its result is recorded or its lease is lost."""
        facts = {"function": build.function, "version": build.number, "attempt": build.attempt}
        _log.info("build_started", extra=facts)
        try:
            if build.attempt > ATTEMPTS_LIMIT:
                lock, reason = (
                    None,
                    f"{ATTEMPTS_LIMIT} workers were lost while they built the dependencies; deploy again to try again",
                )
            else:
                lock, reason = await self._result(build), ""
        except QueueUnavailable:
            raise  # the lease expires, and the build is claimed again
        except SandlotError as error:
            lock, reason = None, error.message
        except Exception as error:  # noqa: BLE001 -- a fault of this machine must be reported, and not stop later builds
            _log.exception("build_broke", extra=facts)
            lock, reason = None, f"this worker could not build the dependencies: {error}"
        if lock is None and not reason:
            _log.warning("build_lost", extra=facts)
            return
        recorded = await self._record(build, lock, reason)
        _log.info("build_ended", extra={**facts, "recorded": recorded, "reason": reason[:200]})

    async def _result(self, build: Build) -> Lock | None:
        """Return the lock, with its tree in this machine's cache; None if the lease was lost."""
        version = await self._builds.version(build)
        async with await self._trees.sandbox(version.manifest.runtime) as sandbox:
            work = asyncio.create_task(
                self._trees.resolve(version.manifest, sandbox), name=f"build {build.digest[:12]}"
            )
            try:
                while not work.done():
                    await asyncio.wait([work], timeout=_HEARTBEAT_S)
                    if not work.done() and not await self._heartbeat(build, sandbox.progress()):
                        return None
                return work.result()
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def _heartbeat(self, build: Build, progress: str) -> bool:
        """Renew the lease; False if it was lost.

        An unreachable Redis counts as renewed: it may answer the next heartbeat in time.
        """
        try:
            return await self._builds.heartbeat(build, progress or "resolving")
        except QueueUnavailable as error:
            _log.warning("build_beat_failed", extra={"function": build.function, "error": error.message})
            return True

    async def _record(self, build: Build, lock: Lock | None, reason: str) -> bool:
        for left in reversed(range(_RECORD_TRIES)):
            try:
                if lock is None:
                    return await self._builds.fail(build, reason)
                return await self._builds.succeed(build, lock)
            except QueueUnavailable:
                if not left:
                    raise
            await asyncio.sleep(_HEARTBEAT_S)
        return False

    def _patience_ms(self) -> list[int]:
        """Return, for each placement, how long this worker leaves its builds to others."""
        return [_PATIENCE_MS if self._trees.obstacle(Runtime(runtime_of(at))) else 0 for at in self._placements]
