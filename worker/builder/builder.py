"""The worker's builder: claims requested builds and records their results.

Builds that may run code of packages (`source_builds`) have a lane of their own, so that one which
sleeps until its limit delays no build of wheels. A lane has a few places, and one owner gets one of
them at a time.

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
from sandlot.functions.version import Version
from sandlot.models import Runtime
from sandlot.placement import runtime_of
from sandlot.redis.connection import end_task
from sandlot.redis.invalidation import Invalidation
from sandlot.redis.keys import BUILDS_CHANGED
from worker.builder.build_sandbox import BuildSandbox
from worker.builder.package_trees import OnSandbox, PackageTrees

_CHECK_S: Final = LEASE_MS / 1000 / 2
"""Interval between checks for expired leases of other workers; new builds arrive by Pub/Sub."""
_HEARTBEAT_S: Final = 1.0
_RECORD_TRIES: Final = 5
_PATIENCE_MS: Final = 20_000
"""A worker that cannot build leaves a build to one that can for this long, then says why."""

LANE_PLACES: Final = 2
"""Builds at a time in each lane. With one place, an owner's slow builds would keep all other owners
waiting; each place may take as much memory as a build's sandbox may."""

_log: Final = logging.getLogger(__name__)


class _Lane:
    """The running builds of one kind, with their owners."""

    def __init__(self, *, source_builds: bool) -> None:
        self.source_builds = source_builds
        self.wake = asyncio.Event()
        self.running: dict[asyncio.Task[None], str] = {}

    def start(self, task: asyncio.Task[None], owner: str) -> None:
        self.running[task] = owner
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self.wake.set()


class Builder:
    """Background tasks that build; `close` abandons the running builds to other workers."""

    def __init__(self, redis: Redis, builds: BuildQueue, trees: PackageTrees, placements: Sequence[str]) -> None:
        self._builds = builds
        self._trees = trees
        self._placements = placements
        self._lanes = (_Lane(source_builds=False), _Lane(source_builds=True))
        self._invalidation = Invalidation(redis, BUILDS_CHANGED, lambda _placement: self._wake_all())
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        self._invalidation.start()
        self._tasks = [asyncio.create_task(self._run(lane), name="builder") for lane in self._lanes]

    async def close(self) -> None:
        await self._invalidation.stop()
        for task in self._tasks:
            await end_task(task)
        for lane in self._lanes:
            for build in list(lane.running):
                await end_task(build)

    def _wake_all(self) -> None:
        for lane in self._lanes:
            lane.wake.set()

    async def _run(self, lane: _Lane) -> None:
        """Claim builds for the free places of a lane."""
        while True:
            lane.wake.clear()
            try:
                if len(lane.running) < LANE_PLACES and (build := await self._claim(lane)):
                    task = asyncio.create_task(self._build(build), name=f"build {build.digest[:12]}")
                    lane.start(task, build.owner)
                    continue
            except QueueUnavailable as error:
                _log.warning("builds_unavailable", extra={"error": error.message})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await lane.wake.wait()

    async def _claim(self, lane: _Lane) -> Build | None:
        return await self._builds.claim(
            self._placements,
            self._patience_ms(),
            source_builds=lane.source_builds,
            busy_owners=set(lane.running.values()),
        )

    async def _build(self, build: Build) -> None:
        """Run one build until its result is recorded or its lease is lost."""
        facts = {"function": build.function, "version": build.number, "attempt": build.attempt}
        _log.info("build_started", extra=facts)
        try:
            lock, reason = await self._lock_or_reason(build, facts)
            if lock is None and not reason:
                _log.warning("build_lost", extra=facts)
                return
            recorded = await self._record(build, lock, reason)
        except QueueUnavailable as error:  # the lease expires, and the build is claimed again
            _log.warning("builds_unavailable", extra={"error": error.message})
            return
        _log.info("build_ended", extra={**facts, "recorded": recorded, "reason": reason[:200]})

    async def _lock_or_reason(self, build: Build, facts: dict[str, object]) -> tuple[Lock | None, str]:
        """Return the lock, or why there is none; neither if the lease was lost.

        Raises:
            QueueUnavailable: Redis did not answer.
        """
        if build.attempt > ATTEMPTS_LIMIT:
            return (
                None,
                f"{ATTEMPTS_LIMIT} workers were lost while they built the dependencies; deploy again to try again",
            )
        try:
            return await self._result(build), ""
        except QueueUnavailable:
            raise
        except SandlotError as error:
            return None, error.message
        except Exception as error:  # noqa: BLE001 -- a fault of this machine must be reported, and not stop later builds
            _log.exception("build_broke", extra=facts)
            return None, f"this worker could not build the dependencies: {error}"

    async def _result(self, build: Build) -> Lock | None:
        """Return the lock, with its tree in this machine's cache; None if the lease was lost."""
        version = await self._builds.version(build)
        sandboxes: list[BuildSandbox] = []
        work = asyncio.create_task(self._resolve_and_install(version, sandboxes.append))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_HEARTBEAT_S)
                progress = sandboxes[-1].progress() if sandboxes else ""
                if not work.done() and not await self._heartbeat(build, progress):
                    return None
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _resolve_and_install(self, version: Version, on_sandbox: OnSandbox) -> Lock:
        lock = await self._trees.resolve(version.manifest, on_sandbox)
        await self._trees.tree(lock, version.function, on_sandbox)
        return lock

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
