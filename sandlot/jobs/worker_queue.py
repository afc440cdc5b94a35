"""The queue for workers: claiming, settling, heartbeats, reaping, and the messages on a worker's
channel.

`queue.py` is the half for everything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, cast

import hiredis
import msgspec

from sandlot.errors import SandlotError
from sandlot.jobs.envelope import Envelope, unseal
from sandlot.jobs.settlement import LOST_EXC_STRING, EncodedResult, SealedOutcome, seal_outcome
from sandlot.metrics import Histogram
from sandlot.models import Outcome, Timings
from sandlot.redis import keys
from sandlot.redis.lua import script
from sandlot.redis.pipeline import LARGE_BYTES, Argument, RedisPipeline, Refused, Reply
from sandlot.redis.pubsub import Subscription
from sandlot.redis.schema import check_schema

log = logging.getLogger(__name__)

LEASE_S: Final = 4.0
"""`LEASE_MS` in `prelude.lua`: four heartbeats. A worker that could not send one for this long must
assume that its jobs belong to others."""


class Claim(msgspec.Struct, eq=False):
    """The right to one attempt, with what has to be executed. `queued_ms` is how long the job was
    queued, on Redis's clock."""

    job_id: str
    attempt: int
    sealed: bytes
    data: bytes
    queued_ms: float
    has_waiter: bool
    probe: bool = False
    """The function's breaker is open, and the outcome of this run decides whether it closes."""

    @property
    def lease(self) -> str:
        return f"{self.job_id}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class SettleAndClaimReply:
    """The reply to `settle_and_claim`.

    `answers` has `ok`, `already`, `stale` or `unstored` for each outcome, in order. `parked`: a
    submit may now hand jobs off to this worker.
    """

    answers: list[str]
    claims: list[Claim]
    parked: bool


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The half of the retry decision that a worker makes from the function's retry policy
    (`worker/engine/recording.py`); `retry_or_fail.lua` makes the other from what Redis knows.

    `attempts`: how many are allowed for this kind of outcome, the first included; 0 for no retry.
    `jitter`: thousandths of the random half of the pause. `crashed`: it counts towards the
    function's breaker. `probe`: the run was a probe of an open breaker.
    """

    attempts: int = 0
    backoff_ms: int = 0
    jitter: int = 0
    max_age_ms: int = 0
    crashed: bool = False
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker's report of its own state."""

    state: str
    successes: int
    failures: int
    working_s: float
    registration_ttl_s: int
    free: int
    leases: Sequence[str]
    slots: int = 0
    busy: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The reply to a heartbeat.

    `lost`: leases that belong to others now. `cancels`: jobs to kill. `should_claim`: there is work
    for the free slots, or they are no longer parked. `registered`: RQ's registration of this worker
    exists. `work_waits`: a queue of its placements has work.
    """

    lost: list[str]
    cancels: list[str]
    should_claim: bool
    registered: bool
    work_waits: bool


@dataclass(frozen=True, slots=True)
class ReapReply:
    """The number of jobs that were queued again, ended as lost, or became due. `next_ms`: until the
    first lease expires or the first delayed job is due; -1 if there is neither."""

    requeued: int
    lost: int
    due: int
    next_ms: int


class WorkerQueue:
    """One worker's connection to the queue: one pipelined connection and one subscription."""

    def __init__(
        self, url: str, pipeline: RedisPipeline, signing_key: bytes, name: str, placements: Sequence[str]
    ) -> None:
        self._url = url
        self._pipeline = pipeline
        self._key = signing_key
        self.name = name
        self.placements = tuple(placements)
        self._settle_and_claim = script("settle_and_claim")
        self._subscription: Subscription | None = None
        self.on_follow: Callable[[str, str], None] = _ignore_followers
        """Called with a job id and the channel of an API process whose reader follows the job. Set
        it before `listen`."""

    @classmethod
    async def open(cls, url: str, signing_key: bytes, name: str, placements: Sequence[str]) -> WorkerQueue:
        """Connect and check the schema.

        Raises:
            QueueUnavailable: Redis cannot be reached or refuses the connection.
            SchemaMismatch: the data in it is not this Sandlot's to touch.
        """
        pipeline = await RedisPipeline.open(url)
        try:
            await check_schema(pipeline.call)
        except SandlotError:
            await pipeline.close()
            raise
        return cls(url, pipeline, signing_key, name, placements)

    async def listen(
        self,
        on_hand_off: Callable[[Claim, int], None],
        on_wake: Callable[[], None],
        on_cancel: Callable[[str], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        """Subscribe to this worker's channel.

        Args:
            on_hand_off: called with a job and its number among the hand-offs.
            on_wake: called when a queue in the ring has work.
            on_cancel: called with the id of a job to kill.
            on_subscribed: called after each subscription; earlier messages may be lost.

        Raises:
            QueueUnavailable: the subscription was not confirmed in time.
        """

        def on_message(payload: bytes) -> None:
            if payload.startswith(b"H "):
                try:
                    claim, number = _parse_hand_off(payload)
                except ValueError:
                    log.warning("garbled hand-off ignored", extra={"worker": self.name, "payload_bytes": len(payload)})
                    return
                on_hand_off(claim, number)
            elif payload.startswith(b"L "):
                job_id, _, channel = payload[2:].decode("utf-8", "replace").partition(" ")
                self.on_follow(job_id, channel)
            elif payload.startswith(b"C "):
                on_cancel(payload[2:].decode("utf-8", "replace"))
            else:
                on_wake()

        self._subscription = Subscription(self._url, keys.TO_WORKER + self.name, on_message, on_subscribed)
        await self._subscription.open()

    def settle_and_claim(
        self, number: int, free: int, hand_offs_seen: int, outcomes: Sequence[SealedOutcome], *, prefetch: int = 0
    ) -> asyncio.Future[Reply]:
        """Record outcomes, claim up to `free + prefetch` jobs and park the slots that stay idle, in
        one round trip. `parse_settle_and_claim` reads the reply.

        Args:
            number: of this call; sending the same number again repeats the reply, not the work.
            hand_offs_seen: the number of the last hand-off, -1 to restart the count.
        """
        return self._pipeline.run_now(
            self._settle_and_claim,
            self.name,
            number,
            free,
            prefetch,
            hand_offs_seen,
            len(self.placements),
            *self.placements,
            *cast("Iterable[Argument]", chain.from_iterable(outcomes)),
        )

    @staticmethod
    def parse_settle_and_claim(reply: Reply) -> SettleAndClaimReply:
        answers, claims, parked = cast(
            "tuple[list[bytes], list[tuple[bytes, int, bytes, bytes, int, int]], int]", reply
        )
        return SettleAndClaimReply(
            [answer.decode() for answer in answers],
            [
                Claim(job_id.decode(), attempt, sealed, data, float(queued_ms), flags & 1 == 1, flags & 2 == 2)
                for job_id, attempt, sealed, data, queued_ms, flags in claims
            ],
            parked == 1,
        )

    async def put_result_chunk(self, claim: Claim, number: int, chunk: bytes) -> bool:
        """Store one chunk of a large result before its outcome is recorded. Return False if the
        attempt belongs to another worker now.

        Raises:
            QueueUnavailable: it is unknown whether it was stored; storing it again is safe.
        """
        call = self._pipeline.run(script("put_result_chunk"), claim.job_id, claim.attempt, number, chunk)
        return cast(int, await _reply_of(call)) == 1

    def retry_or_fail(self, outcome: SealedOutcome, decision: RetryDecision) -> asyncio.Future[Reply]:
        """Record one outcome or schedule another attempt, and count a crash. The reply is `ok`,
        `again`, `already`, `stale` or `unstored`. Sending it again changes nothing."""
        return self._pipeline.run(
            script("retry_or_fail"), self.name, *outcome,
            decision.attempts, decision.backoff_ms, decision.jitter, decision.max_age_ms, int(decision.crashed), int(decision.probe),
        )  # fmt: skip

    async def append_logs(
        self, job_id: str, attempt: int, before_bytes: int, text: bytes, channels: Sequence[str]
    ) -> int:
        """Store the output of a running attempt beyond `before_bytes` for its followers.

        Returns:
            1; 0 if the attempt belongs to another worker now; -1 if the whole output must be sent
            again.

        Raises:
            QueueUnavailable: it is unknown whether it was stored; sending it again is safe.
        """
        call = self._pipeline.run(script("append_logs"), job_id, attempt, before_bytes, text, *channels)
        return cast(int, await _reply_of(call))

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatReply:
        """Renew every lease and report this worker's state.

        Raises:
            QueueUnavailable: it is unknown whether the leases were renewed.
        """
        arguments: tuple[Argument, ...] = (
            self.name, heartbeat.state, heartbeat.successes, heartbeat.failures, f"{heartbeat.working_s:.3f}",
            heartbeat.registration_ttl_s, heartbeat.free, heartbeat.slots, heartbeat.busy,
            len(self.placements), *self.placements, *heartbeat.leases,
        )  # fmt: skip
        lost, cancels, should_claim, unregistered, work_waits = cast(
            "tuple[list[bytes], list[bytes], int, int, int]",
            await _reply_of(self._pipeline.run(script("heartbeat"), *arguments)),
        )
        return HeartbeatReply(
            [member.decode() for member in lost],
            [job_id.decode() for job_id in cancels],
            should_claim == 1,
            unregistered == 0,
            work_waits == 1,
        )

    def report_stats(self, stats: bytes) -> None:
        """Store this worker's counters for `Queue.load`, without waiting; the next report replaces
        them. They expire with the worker's hash."""
        self._pipeline.call("HSET", keys.WORKER + self.name, keys.STATS, stats).add_done_callback(_ignore_failure)

    async def reap(self) -> ReapReply:
        """Take back expired leases and queue the jobs that have become due.

        Raises:
            QueueUnavailable
        """
        return ReapReply(*cast("list[int]", await _reply_of(self._pipeline.run(script("reap"), LOST_EXC_STRING))))

    async def release(self, leases: Sequence[str], *, delay_ms: int = 0) -> int:
        """Give jobs back unfinished; their attempts do not count. Return how many still belonged to
        this worker.

        Raises:
            QueueUnavailable: it is unknown; the reaper finds the rest when their leases expire.
        """
        if not leases:
            return 0
        return cast(int, await _reply_of(self._pipeline.run(script("release"), delay_ms, *leases)))

    def unseal(self, claim: Claim) -> tuple[Envelope, bytes | memoryview]:
        """Verify a claim and return its envelope and event; a large event is a view of the claim's
        data, not a copy.

        Raises:
            UnsafeRecord: no holder of the signing key submitted it; it must not be executed.
        """
        if len(claim.data) > LARGE_BYTES:
            return unseal(self._key, claim.job_id, claim.sealed, memoryview(claim.data))
        return unseal(self._key, claim.job_id, claim.sealed, claim.data)

    def seal_outcome(
        self,
        claim: Claim,
        function: str,
        version: int,
        outcome: Outcome,
        timings: Timings,
        encoded: EncodedResult | None = None,
    ) -> SealedOutcome:
        """Sign an outcome for `settle_and_claim` or `retry_or_fail`."""
        return seal_outcome(
            self._key,
            claim.job_id,
            claim.attempt,
            function,
            version,
            outcome,
            timings,
            has_waiter=claim.has_waiter,
            encoded=encoded,
        )

    @property
    def round_trips(self) -> Histogram:
        """The round trips of all calls to Redis."""
        return self._pipeline.round_trips

    @property
    def connected(self) -> bool:
        return self._pipeline.connected

    async def ready(self, timeout_s: float) -> bool:
        """Wait until connected. Return False if that takes longer than `timeout_s`."""
        return await self._pipeline.ready(timeout_s)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        await self._pipeline.close()


def _ignore_failure(reply: asyncio.Future[Reply]) -> None:
    """Retrieve the exception and drop it: the heartbeat beside it fails too and is reported."""
    if not reply.cancelled():
        reply.exception()


async def _reply_of(future: asyncio.Future[Reply]) -> Reply:
    """
    Raises:
        QueueUnavailable: for every error reply too, since the caller can only try again.
    """
    try:
        return await future
    except hiredis.ReplyError as error:
        raise Refused(f"Redis refuses: {error}") from None


def _parse_hand_off(payload: bytes) -> tuple[Claim, int]:
    """Parse `H <number> <job> <attempt> <queued ms> <has a waiter> <envelope's length>`, a newline,
    the envelope and the data (`submit.lua`)."""
    head = payload[: payload.index(b"\n")]
    _, number, job_id, attempt, queued_ms, has_waiter, length = head.split(b" ")
    body = len(head) + 1
    split = body + int(length)
    claim = Claim(
        job_id.decode(), int(attempt), payload[body:split], payload[split:], float(queued_ms), has_waiter == b"1"
    )
    return claim, int(number)


def _ignore_followers(job_id: str, channel: str) -> None:
    """The default of `WorkerQueue.on_follow`."""
