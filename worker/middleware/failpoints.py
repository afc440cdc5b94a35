"""Failpoints of a worker: around its pool and around its queue.

The engine between the two is the one that ships. The composition root uses this module only when
`SANDLOT_FAILPOINTS` is set; `sandlot.failpoints` defines what a fault does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sandlot.errors import SandlotError
from sandlot.failpoints import Failpoints
from sandlot.jobs.settlement import SealedOutcome
from sandlot.jobs.worker_queue import Claim, Heartbeat, HeartbeatReply, ReapReply, RetryDecision, WorkerQueue
from sandlot.models import Outcome
from sandlot.redis.pipeline import Reply
from worker.execution import Execution
from worker.middleware import Middleware


class FailpointMiddleware(Middleware):
    """Middleware with the failpoints from a claim to the moment when the engine has the outcome."""

    def __init__(self, points: Failpoints) -> None:
        self._points = points

    def before_start(self, execution: Execution) -> None:
        self._points.reach("claimed", execution.job_id, execution.attempt)

    def after_start(self, execution: Execution) -> None:
        self._points.reach("started", execution.job_id, execution.attempt)

    def before_done(self, execution: Execution, ended: Outcome | SandlotError) -> Outcome | SandlotError:
        self._points.reach("ran", execution.job_id, execution.attempt)
        return ended

    def after_done(self, execution: Execution) -> None:
        self._points.reach("kept", execution.job_id, execution.attempt)


class FailingQueue(WorkerQueue):
    """A worker's queue with a failpoint before and after each of its scripts.

    `open_failing_queue` sets `points` once the queue is open.
    """

    points = Failpoints(())

    async def listen(
        self,
        on_handed: Callable[[Claim, int], None],
        on_wake: Callable[[], None],
        on_cancel: Callable[[str], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        def handed(claim: Claim, number: int) -> None:
            self.points.reach("handed", claim.job_id, claim.attempt)
            on_handed(claim, number)

        await super().listen(handed, on_wake, on_cancel, on_subscribed)

    def settle_and_claim(
        self, number: int, free: int, hand_offs_seen: int, outcomes: Sequence[SealedOutcome], *, prefetch: int = 0
    ) -> asyncio.Future[Reply]:
        self._reach_all("settling", outcomes)
        self.points.reach("stepping")
        reply = super().settle_and_claim(number, free, hand_offs_seen, outcomes, prefetch=prefetch)
        # This callback runs before the engine's own, which is added to the returned future: the
        # reply has arrived and has not been read.
        reply.add_done_callback(lambda _: self._answered(outcomes))
        return reply

    def _answered(self, endings: Sequence[SealedOutcome]) -> None:
        self.points.reach("stepped")
        self._reach_all("settled", endings)

    def _reach_all(self, point: str, endings: Sequence[SealedOutcome]) -> None:
        for job_id, attempt, *_ in endings:
            self.points.reach(point, job_id, attempt)

    async def put_result_chunk(self, claim: Claim, number: int, chunk: bytes) -> bool:
        self.points.reach("storing", claim.job_id, claim.attempt)
        ours = await super().put_result_chunk(claim, number, chunk)
        self.points.reach("stored", claim.job_id, claim.attempt)
        return ours

    def retry_or_fail(self, outcome: SealedOutcome, decision: RetryDecision) -> asyncio.Future[Reply]:
        self._reach_all("settling", [outcome])
        reply = super().retry_or_fail(outcome, decision)
        reply.add_done_callback(lambda _: self._reach_all("settled", [outcome]))
        return reply

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatReply:
        self.points.reach("beating")
        reply = await super().heartbeat(heartbeat)
        self.points.reach("beaten")
        return reply

    async def reap(self) -> ReapReply:
        self.points.reach("reaping")
        reaped = await super().reap()
        self.points.reach("reaped")
        return reaped

    async def release(self, leases: Sequence[str], *, delay_ms: int = 0) -> int:
        self.points.reach("releasing")
        released = await super().release(leases, delay_ms=delay_ms)
        self.points.reach("released")
        return released


async def open_failing_queue(
    points: Failpoints, url: str, signing_key: bytes, name: str, placements: Sequence[str]
) -> WorkerQueue:
    """Open a worker's queue that reaches these failpoints.

    Raises:
        QueueUnavailable: Redis cannot be reached or refuses the connection.
    """
    queue = await FailingQueue.open(url, signing_key, name, placements)
    assert isinstance(queue, FailingQueue)  # noqa: S101  # `open` is a class method and returns an instance of its class
    queue.points = points
    return queue
