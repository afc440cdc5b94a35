"""The queue as a worker uses it: step, beat, reap, release, and what arrives on its channel.

Knows: the worker side's scripts, their arguments and answers, signatures. Does not know: how a job is executed.
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
"""LEASE_MS of prelude.lua: four beats. A worker that could not beat for this long must assume that its jobs are another's."""


class Claim(msgspec.Struct, eq=False):
    """The right to one attempt, with what has to be executed. `queued_ms` is on Redis's clock."""

    job_id: str
    attempt: int
    sealed: bytes
    data: bytes
    queued_ms: float
    has_waiter: bool
    probe: bool = False
    """Its function has crashed too often, and how this run ends decides whether others may follow."""

    @property
    def lease(self) -> str:
        return f"{self.job_id}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class SettleAndClaimReply:
    """`answers`: `ok`, `already`, `stale` or `unstored` for each ending, in order. `parked`: a submit may now hand jobs over."""

    answers: list[str]
    claims: list[Claim]
    parked: bool


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What is asked of one ending beside its record.

    `attempts`: so many are allowed for this kind of end, the first included; 0 if it is never run again. `jitter`: thousandths of the
    half of the pause that is left to chance. `crashed`: it counts against its function. `probe`: its function is on probation.
    """

    attempts: int = 0
    backoff_ms: int = 0
    jitter: int = 0
    max_age_ms: int = 0
    crashed: bool = False
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker says of itself with every beat."""

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
    """`lost`: leases that are another's now. `cancels`: jobs to kill. `registered`: RQ still knows this worker.
    `work_waits`: there is a job that this worker could claim, had it a slot for it."""

    lost: list[str]
    cancels: list[str]
    should_step: bool
    registered: bool
    work_waits: bool


@dataclass(frozen=True, slots=True)
class ReapReply:
    """How many jobs went which way. `next_ms`: when the first lease runs out that nobody renews, or the first delayed job is due; -1 if none is there."""

    again: int
    lost: int
    due: int
    next_ms: int


class WorkerQueue:
    """One per worker. `on_handed` gets a job and its number among the hand-offs, `on_wake` means that there is work in the ring."""

    def __init__(
        self, url: str, pipeline: RedisPipeline, signing_key: bytes, name: str, placements: Sequence[str]
    ) -> None:
        self._url = url
        self._pipeline = pipeline
        self._key = signing_key
        self.name = name
        self.placements = tuple(placements)
        self._step = script("settle_and_claim")
        self._subscription: Subscription | None = None
        self.on_follow: Callable[[str, str], None] = _nobody_cares
        """Called with a job, and the channel of somebody who watches what it prints; set before `listen`."""

    @classmethod
    async def open(cls, url: str, signing_key: bytes, name: str, placements: Sequence[str]) -> WorkerQueue:
        """
        Raises:
            QueueUnavailable: Redis cannot be reached or refuses us.
            SchemaMismatch: what is in it is not ours to touch.
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
        on_handed: Callable[[Claim, int], None],
        on_wake: Callable[[], None],
        on_cancel: Callable[[str], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        """Hear hand-offs, wake-ups and cancellations from now on.

        Raises:
            QueueUnavailable
        """

        def on_message(payload: bytes) -> None:
            if payload.startswith(b"H "):
                try:
                    handed = _parse_hand_off(payload)
                except ValueError:
                    log.warning("garbled hand-off ignored", extra={"worker": self.name, "payload_bytes": len(payload)})
                    return
                on_handed(*handed)
            elif payload.startswith(b"L "):
                job_id, _, channel = payload[2:].decode("utf-8", "replace").partition(" ")
                self.on_follow(job_id, channel)
            elif payload.startswith(b"C "):
                on_cancel(payload[2:].decode("utf-8", "replace"))
            else:
                on_wake()

        self._subscription = Subscription(self._url, keys.TO_WORKER + self.name, on_message, on_subscribed)
        await self._subscription.open()

    @property
    def round_trips(self) -> Histogram:
        """To Redis, of every call."""
        return self._pipeline.round_trips

    @property
    def connected(self) -> bool:
        return self._pipeline.connected

    async def ready(self, timeout_s: float) -> bool:
        return await self._pipeline.ready(timeout_s)

    def settle_and_claim(
        self, number: int, free: int, seen: int, endings: Sequence[SealedOutcome], *, ahead: int = 0
    ) -> asyncio.Future[Reply]:
        """One round trip: record these endings, claim up to `free + ahead` jobs, park what of `free` stays idle. `parse_settle_and_claim` reads the answer.

        Sending the same number again repeats the answer, not the work. `seen`: the number of the last hand-off, -1 to count anew.
        """
        return self._pipeline.run_now(
            self._step,
            self.name,
            number,
            free,
            ahead,
            seen,
            len(self.placements),
            *self.placements,
            *cast("Iterable[Argument]", chain.from_iterable(endings)),
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

    async def put_result_chunk(self, claim: Claim, number: int, piece: bytes) -> bool:
        """Keep one piece of a large result until its end is recorded; false if the attempt is another's now.

        Raises:
            QueueUnavailable: unknown; storing it again is safe.
        """
        call = self._pipeline.run(script("put_result_chunk"), claim.job_id, claim.attempt, number, piece)
        return cast(int, await _answer(call)) == 1

    def retry_or_fail(self, ending: SealedOutcome, judgement: RetryDecision) -> asyncio.Future[Reply]:
        """Record one ending, or have its job run again, and what it means for its function. The answer: `ok`, `again`, `already`, `stale` or `unstored`.

        Sending it again changes nothing."""
        return self._pipeline.run(
            script("retry_or_fail"), self.name, *ending,
            judgement.attempts, judgement.backoff_ms, judgement.jitter, judgement.max_age_ms, int(judgement.crashed), int(judgement.probe),
        )  # fmt: skip

    async def append_logs(
        self, job_id: str, attempt: int, before_bytes: int, text: bytes, channels: Sequence[str]
    ) -> int:
        """Say what a running attempt has printed beyond `before_bytes`: 1; 0 if it is another's now; -1 to say it from the beginning.

        Raises:
            QueueUnavailable: unknown; saying it again is safe.
        """
        call = self._pipeline.run(script("append_logs"), job_id, attempt, before_bytes, text, *channels)
        return cast(int, await _answer(call))

    async def heartbeat(self, pulse: Heartbeat) -> HeartbeatReply:
        """
        Raises:
            QueueUnavailable: unknown whether the leases were renewed.
        """
        arguments: tuple[Argument, ...] = (
            self.name, pulse.state, pulse.successes, pulse.failures, f"{pulse.working_s:.3f}", pulse.registration_ttl_s, pulse.free,
            pulse.slots, pulse.busy,
            len(self.placements), *self.placements, *pulse.leases,
        )  # fmt: skip
        lost, cancels, should_step, gone, waits = cast(
            "tuple[list[bytes], list[bytes], int, int, int]",
            await _answer(self._pipeline.run(script("heartbeat"), *arguments)),
        )
        return HeartbeatReply(
            [member.decode() for member in lost],
            [job_id.decode() for job_id in cancels],
            should_step == 1,
            gone == 0,
            waits == 1,
        )

    def report_stats(self, stats: bytes) -> None:
        """Leave what this worker has counted where `Queue.load` finds it; gone with the worker. Nobody waits for it: the next replaces it."""
        self._pipeline.call("HSET", keys.WORKER + self.name, keys.STATS, stats).add_done_callback(_ignore_unreachable)

    async def reap(self) -> ReapReply:
        """
        Raises:
            QueueUnavailable
        """
        return ReapReply(*cast("list[int]", await _answer(self._pipeline.run(script("reap"), LOST_EXC_STRING))))

    async def release(self, leases: Sequence[str], *, delay_ms: int = 0) -> int:
        """Give jobs back unfinished; their attempts do not count. Returns how many were still this worker's.

        Raises:
            QueueUnavailable: unknown; what was not released is found by the reaper when its lease runs out.
        """
        if not leases:
            return 0
        return cast(int, await _answer(self._pipeline.run(script("release"), delay_ms, *leases)))

    def unseal(self, claim: Claim) -> tuple[Envelope, bytes | memoryview]:
        """What is to be done; a large event is a view of the claim's data, not a copy.

        Raises:
            UnsafeRecord: nobody with our key asked for this. It must not be executed.
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
        """An outcome as `step` takes it, signed."""
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

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        await self._pipeline.close()


def _ignore_unreachable(reply: asyncio.Future[Reply]) -> None:
    """The beat beside it has the same fate and says so."""
    if not reply.cancelled():
        reply.exception()


async def _answer(future: asyncio.Future[Reply]) -> Reply:
    """
    Raises:
        QueueUnavailable: whatever Redis has against it, the caller's answer is to try again.
    """
    try:
        return await future
    except hiredis.ReplyError as error:
        raise Refused(f"Redis refuses: {error}") from None


def _parse_hand_off(payload: bytes) -> tuple[Claim, int]:
    """`H <number> <job> <attempt> <queued ms> <has a waiter> <envelope's length>\\n<envelope><data>` (submit.lua)."""
    head = payload[: payload.index(b"\n")]
    _, number, job_id, attempt, queued_ms, has_waiter, length = head.split(b" ")
    body = len(head) + 1
    split = body + int(length)
    claim = Claim(
        job_id.decode(), int(attempt), payload[body:split], payload[split:], float(queued_ms), has_waiter == b"1"
    )
    return claim, int(number)


def _nobody_cares(job_id: str, channel: str) -> None:
    """For a queue whose owner has no use for watchers."""
