"""Where the fail-points of a worker are: around its pool and around its queue, so that the engine between them is the one that ships.

Knows: which calls lie between a claim and its record. Does not know: what a fault does (`sandlot.failpoints`).
The composition root puts these in only when `SANDLOT_FAILPOINTS` is set.
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
from worker.execution import Done, Execution, Executor


class FailingPool:
    """An executor around the real one."""

    def __init__(self, pool: Executor, points: Failpoints) -> None:
        self._pool = pool
        self._points = points
        self.slots = pool.slots
        self.runtimes = pool.runtimes

    def start(self, execution: Execution, done: Done) -> None:
        job_id, attempt = execution.job_id, execution.attempt

        def ended(execution: Execution, how: Outcome | SandlotError) -> None:
            self._points.reach("ran", job_id, attempt)
            done(execution, how)
            self._points.reach("kept", job_id, attempt)

        self._points.reach("claimed", job_id, attempt)
        self._pool.start(execution, ended)
        self._points.reach("started", job_id, attempt)

    def cancel(self, job_id: str) -> bool:
        return self._pool.cancel(job_id)

    def abandon(self, job_id: str) -> bool:
        return self._pool.abandon(job_id)

    def printed(self, job_id: str) -> bytes:
        return self._pool.printed(job_id)


class FailingQueue(WorkerQueue):
    """The worker's queue, with a moment before and after each of its scripts. `points` is set once it is open."""

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
        self, number: int, free: int, seen: int, endings: Sequence[SealedOutcome], *, ahead: int = 0
    ) -> asyncio.Future[Reply]:
        self._reach_all("settling", endings)
        self.points.reach("stepping")
        reply = super().settle_and_claim(number, free, seen, endings, ahead=ahead)
        # Before the engine's own callback, which is added to what we return: the reply is here, and nobody has read it.
        reply.add_done_callback(lambda _: self._answered(endings))
        return reply

    def _answered(self, endings: Sequence[SealedOutcome]) -> None:
        self.points.reach("stepped")
        self._reach_all("settled", endings)

    def _reach_all(self, point: str, endings: Sequence[SealedOutcome]) -> None:
        for job_id, attempt, *_ in endings:
            self.points.reach(point, job_id, attempt)

    async def put_result_chunk(self, claim: Claim, number: int, piece: bytes) -> bool:
        self.points.reach("storing", claim.job_id, claim.attempt)
        ours = await super().put_result_chunk(claim, number, piece)
        self.points.reach("stored", claim.job_id, claim.attempt)
        return ours

    def retry_or_fail(self, ending: SealedOutcome, judgement: RetryDecision) -> asyncio.Future[Reply]:
        self._reach_all("settling", [ending])
        reply = super().retry_or_fail(ending, judgement)
        reply.add_done_callback(lambda _: self._reach_all("settled", [ending]))
        return reply

    async def heartbeat(self, pulse: Heartbeat) -> HeartbeatReply:
        self.points.reach("beating")
        beaten = await super().heartbeat(pulse)
        self.points.reach("beaten")
        return beaten

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
    """
    Raises:
        QueueUnavailable: Redis cannot be reached or refuses us.
    """
    queue = await FailingQueue.open(url, signing_key, name, placements)
    assert isinstance(queue, FailingQueue)  # noqa: S101  # `open` makes one of the class it is called on
    queue.points = points
    return queue
