"""The queue for everything but workers' engines: the API, the command line, the scheduler and the
tests submit, wait, read and cancel jobs through it.

`worker_queue.py` is the workers' half.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, cast

import hiredis
import msgspec

from sandlot.errors import JobFinal, JobNotFound, QueueUnavailable, SandlotError
from sandlot.jobs.admission import Admission
from sandlot.jobs.callbacks import STATE_FIELDS, CallbackState, state_from
from sandlot.jobs.dead_letters import DeadLetters
from sandlot.jobs.envelope import unseal
from sandlot.jobs.ids import new_job_id, was_issued
from sandlot.jobs.inspection import (
    JOB_FIELDS,
    LOGS_TAIL_BYTES,
    JobPage,
    JobRecord,
    job_status,
    queue_eta,
    read_job_page,
    record_from,
)
from sandlot.jobs.large_results import LargeResults
from sandlot.jobs.notifications import (
    Follower,
    JobFollowers,
    ResultFuture,
    ResultNotifications,
    ResultWaiters,
    WaitEnd,
    end_wait,
)
from sandlot.jobs.settlement import (
    LOST_EXC_STRING,
    JobResult,
    decode_return_value,
    job_result_from,
    read_outcome_record,
)
from sandlot.jobs.stats import QueueLoads, QueueStatus, read_queue_loads, read_status
from sandlot.jobs.submit import SubmitBatcher, job_gone, memory_low, refusal, scoped_key, submit_arguments
from sandlot.metrics import Histogram
from sandlot.models import Invocation, JobStatus
from sandlot.offload import offload
from sandlot.redis import keys
from sandlot.redis.clock import RedisClock
from sandlot.redis.lua import Script, script
from sandlot.redis.pipeline import Argument, RedisPipeline, Refused, Reply, Unreachable
from sandlot.redis.schema import check_schema

log = logging.getLogger(__name__)

RETRY_LIMIT_S: Final = 3.0
"""How long an idempotent call is repeated while Redis is away: a restart goes unnoticed, an outage
is reported soon."""
KEEP_LIMIT_S: Final = 0.5
"""The longest that a caller waits for `keep_result` before it gets its job's address."""
_CANCELLED_PER_SCRIPT: Final = 500
"""Redis serves no other client during a script; one job takes some 10 µs of it."""


class Submitted(msgspec.Struct, frozen=True):
    """The reply to a submit. `existing`: the id or the idempotency key was in use, and this is the
    job that has it."""

    job_id: str
    existing: bool
    status: JobStatus


class Unfinished(msgspec.Struct, frozen=True):
    """A job that had not ended when its caller's wait did."""

    submitted: Submitted
    reason: WaitEnd


class Queue:
    """One process's connection to the queue: one pipelined connection and two subscriptions."""

    def __init__(
        self, url: str, pipeline: RedisPipeline, signing_key: bytes, queue_limit: int, queue_limit_per_function: int
    ) -> None:
        self._pipeline = pipeline
        self._key = signing_key
        self._channel = secrets.token_hex(8)
        self._followers = JobFollowers(self._run, self._channel)
        self.waiters = ResultWaiters()
        self._notifications = ResultNotifications(
            url,
            keys.TO_WAITER + self._channel,
            signing_key,
            self.result,
            self.keep_result,
            self.waiters,
            self._followers,
        )
        self._admission = Admission(url, self.open_breakers)
        self._submits = SubmitBatcher(pipeline, self._admission, queue_limit_per_function, queue_limit)
        self.large_results = LargeResults(self._call)
        self.dead_letters = DeadLetters(self._call, signing_key)
        self._clock = RedisClock(pipeline)
        self.now_ms = self._clock.now_ms
        """Redis's clock, by which jobs expire."""

    @classmethod
    async def open(cls, url: str, signing_key: bytes, *, queue_limit: int, queue_limit_per_function: int) -> Queue:
        """Connect, check the schema and subscribe.

        Raises:
            QueueUnavailable: Redis cannot be reached or refuses the connection.
            SchemaMismatch: the data in it is not this Sandlot's to touch.
        """
        pipeline = await RedisPipeline.open(url)
        queue = cls(url, pipeline, signing_key, queue_limit, queue_limit_per_function)
        try:
            await check_schema(pipeline.call)
            await queue._clock.refresh()
            await queue._notifications.open()
            queue._followers.open()
            await queue._admission.open()
        except SandlotError:
            await pipeline.close()
            raise
        return queue

    # Submitting and waiting.

    async def submit(self, invocation: Invocation, *, reply: bool) -> Submitted:
        """Queue one invocation, or hand it off to an idle worker. It is idempotent, and repeated
        while Redis is away.

        Args:
            reply: whether the outcome is published to this process, for `waiters`.

        Raises:
            QueueFull, NoWorker, FunctionCrashLoop, IdempotencyConflict, JobGone: it was not queued.
            QueueUnavailable: nothing was acknowledged; the message says whether it may have been
                queued all the same.
        """
        if self._admission.memory_alert is not None and (percent := self._admission.memory_percent()):
            raise memory_low(percent)
        arguments = await offload(
            len(invocation.event), submit_arguments, self._key, invocation, self._channel if reply else ""
        )
        answer = cast("list[bytes]", await self._repeat("submit", lambda: self._submits.send(arguments)))
        code = answer[0]
        if code in (b"new", b"existing"):
            job_id = answer[1].decode()
            # A repeated call finds the job that its own first try had submitted.
            existing = code == b"existing" and job_id != invocation.job_id
            return Submitted(job_id, existing, job_status(answer[2], answer[3]))
        raise refusal(invocation, answer)

    async def submit_batch(
        self, invocations: Sequence[Invocation], idempotency_key: str, fingerprint: str
    ) -> list[str]:
        """Queue all of one function's invocations or none, in one script. Return the job ids, in
        order.

        Args:
            idempotency_key: of the whole batch, empty for none; the invocations have none of their
                own.
            fingerprint: must match for the key to mean the same batch; without spaces.

        Raises:
            QueueFull, NoWorker, FunctionCrashLoop, IdempotencyConflict: none was queued.
            QueueUnavailable: nothing was acknowledged.
        """
        scoped = scoped_key(invocations[0].owner, idempotency_key) if idempotency_key else ""
        arguments = await asyncio.to_thread(
            lambda: [argument for invocation in invocations for argument in submit_arguments(self._key, invocation, "")]
        )
        answers = cast(
            "list[list[bytes]]",
            await self._repeat("submit", lambda: self._submits.send_all_or_none(arguments, scoped, fingerprint)),
        )
        if answers[0][0] in (b"new", b"existing"):
            return [answer[1].decode() for answer in answers]
        raise refusal(invocations[0], answers[0])

    async def call(
        self,
        invocation: Invocation,
        wait_s: float,
        *,
        hung_up: Callable[[], bool] | None = None,
        disconnected: Callable[[], Awaitable[None]] | None = None,
    ) -> JobResult | Unfinished:
        """Submit an invocation and wait up to `wait_s` for its end. The job goes on if the wait
        ends first. A call whose idempotency key is in use waits for the job that has the key.

        Args:
            hung_up: returns whether the caller's connection is closed when the result arrives; the
                result is then kept as long as if there had been no wait.
            disconnected: returns once the caller is gone; the job is then cancelled. It costs a
                task per call.

        Raises:
            JobGone: the job of the idempotency key has ended and its result is no longer kept.
            QueueFull, NoWorker, FunctionCrashLoop, IdempotencyConflict, QueueUnavailable: as
                `submit`.
            UnsafeRecord: the recorded outcome was tampered with.
        """
        job_id, timer = invocation.job_id, None
        future = self.waiters.register(job_id)
        try:
            submitted = await self.submit(invocation, reply=True)
            if submitted.existing:
                self.waiters.unregister(job_id, future)
                job_id = submitted.job_id
                future = self.waiters.register(job_id)
                if submitted.status.final:
                    return await self._kept_result(job_id)
            timer = self.waiters.set_deadline(future, wait_s)
            if disconnected is not None:
                _end_when_gone(disconnected, future)
            ended = await future
            if isinstance(ended, JobResult):
                if hung_up is not None and hung_up():
                    await self.keep_result(job_id)
                return ended
            return await self._end_wait_early(submitted, ended)
        finally:
            self.waiters.unregister(job_id, future)
            if timer is not None:
                timer.cancel()

    async def _end_wait_early(self, submitted: Submitted, reason: WaitEnd) -> Unfinished:
        if reason is WaitEnd.CALLER_GONE:
            with contextlib.suppress(JobFinal, JobNotFound):  # It ended by itself just now.
                await self.cancel(submitted.job_id)
        # The caller gets the job's address and may ask for the result as late as any other.
        await self.keep_result(submitted.job_id)
        return Unfinished(submitted, reason)

    async def _kept_result(self, job_id: str) -> JobResult:
        result = await self.result(job_id)
        if result is None:
            raise job_gone(job_id)
        return result

    async def long_poll(self, job_id: str, wait_s: float) -> JobRecord | None:
        """Return the job as soon as it has ended, and after `wait_s` at the latest."""
        future, timer = self.waiters.register(job_id), None
        try:
            record = await self.job(job_id)
            if record is None or record.status.final or self.waiters.stopping:
                return record
            if await self.add_waiter(job_id):  # Otherwise it has ended in between.
                timer = self.waiters.set_deadline(future, wait_s)
                await future
            return await self.job(job_id)
        finally:
            self.waiters.unregister(job_id, future)
            if timer is not None:
                timer.cancel()

    async def keep_result(self, job_id: str) -> None:
        """Keep the result of a job whose caller waited and did not get it as long as if there had
        been no wait.

        Never raises: the shorter time to live is still minutes, and the caller waits for a reply.
        """
        try:
            async with asyncio.timeout(KEEP_LIMIT_S):
                await self._run(script("keep_result"), job_id)
        except (TimeoutError, QueueUnavailable) as error:
            log.warning("result may be kept shorter", extra={"job_id": job_id, "error": str(error)})

    async def add_waiter(self, job_id: str) -> bool:
        """Have the outcome of an existing job published to this process. Return False if it has
        ended or does not exist."""
        return bool(await self._run(script("add_waiter"), job_id, self._channel))

    def new_job_id(self, owner: str) -> str:
        return new_job_id(self._key, owner)

    def was_issued(self, owner: str, job_id: str) -> bool:
        """Return whether this owner once got this id for a job, whether or not the job is kept."""
        return was_issued(self._key, owner, job_id)

    # Reading.

    async def list_jobs(
        self, wanted: Callable[[JobRecord], bool], *, function: str, limit: int, cursor: str
    ) -> JobPage:
        """Return jobs that `wanted` accepts, of one function or (empty) of all, newest first; see
        `read_job_page`.

        Raises:
            QueueUnavailable
        """
        return await read_job_page(self._call, self._key, wanted, function=function, limit=limit, cursor=cursor)

    async def job(self, job_id: str) -> JobRecord | None:
        """Return the job, or `None` if there is none.

        Raises:
            QueueUnavailable: Redis did not answer.
            UnsafeRecord: the record was tampered with.
        """
        hash_call = self._call("HMGET", keys.JOB + job_id, *JOB_FIELDS)
        logs_call = self._call("GETRANGE", keys.LOGS + job_id, -LOGS_TAIL_BYTES, -1)
        fields = cast("list[bytes | None]", await hash_call)
        logs_tail = cast(bytes, await logs_call)
        record = record_from(self._key, job_id, fields, logs_tail)
        callback = fields[JOB_FIELDS.index(keys.CALLBACK_REQUEST)]
        if record is not None and callback is not None:
            record = msgspec.structs.replace(record, callback=await self._callback_state(job_id, callback))
        if record is None or record.status is not JobStatus.QUEUED or fields[-1] is None:
            return record
        name = fields[-1].decode()
        position, eta_s = await queue_eta(self._run, name, job_id)
        return msgspec.structs.replace(record, queue_position=position, eta_s=eta_s)

    async def _callback_state(self, job_id: str, sealed: bytes) -> CallbackState:
        found = self._call("HMGET", keys.CALLBACK + job_id, *STATE_FIELDS)
        due_ms = cast("bytes | None", await self._call("ZSCORE", keys.CALLBACKS, job_id))
        return state_from(self._key, job_id, sealed, cast("list[bytes | None]", await found), due_ms)

    async def result(self, job_id: str) -> JobResult | None:
        """Return the recorded outcome of a job, or `None` while there is none.

        Raises:
            QueueUnavailable, UnsafeRecord
        """
        fields = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, *JOB_FIELDS))
        outcome_text = fields[JOB_FIELDS.index(keys.END)]
        record = record_from(self._key, job_id, fields) if outcome_text is not None else None
        if record is None or outcome_text is None:
            return None
        result = await self._return_value(job_id) if record.result_bytes and record.stored is None else b""
        outcome = read_outcome_record(self._key, job_id, outcome_text)
        return await offload(
            len(result), job_result_from, job_id, outcome, result, function=record.function, version=record.version
        )

    async def _return_value(self, job_id: str) -> bytes:
        entries = cast("list[list[object]]", await self._call("XREVRANGE", keys.RESULTS + job_id, "+", "-", "COUNT", 1))
        if not entries:
            return b""
        flat = cast("list[bytes]", entries[0][1])
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        value = fields.get(b"return_value", b"")
        return await offload(len(value), decode_return_value, value)

    async def event(self, job_id: str) -> bytes | None:
        """Return the event that a job was submitted with, or `None` if the job does not exist.

        Raises:
            UnsafeRecord: it is not what was signed; submitting it again would sign it.
        """
        fields = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, keys.ENVELOPE, "data"))
        sealed, data = fields
        return None if sealed is None or data is None else unseal(self._key, job_id, sealed, data)[1]

    async def logs(self, job_id: str) -> bytes | None:
        """Return all that is kept of a job's output, or `None` if there is none."""
        return cast("bytes | None", await self._call("GET", keys.LOGS + job_id))

    def follow(self, job_id: str) -> AbstractContextManager[Follower]:
        """Follow a job: the follower's event is set at every change, and as long as there is a
        follower, the job's worker streams its output to Redis."""
        return self._followers.follow(job_id)

    async def read_logs(self, job_id: str, attempt: int | None, from_byte: int) -> bytes:
        """Return a job's output from a byte on: of this running attempt or, with `None`, of the
        attempt that ended the job."""
        name = keys.LOGS + job_id if attempt is None else f"{keys.LIVE}{job_id}:{attempt}"
        return cast(bytes, await self._call("GETRANGE", name, from_byte, -1))

    async def open_breakers(self) -> list[str]:
        """Return the queues whose breaker is not closed.

        Raises:
            QueueUnavailable
        """
        return [name.decode() for name in cast("list[bytes]", await self._call("HKEYS", keys.BREAKERS))]

    async def status(self) -> QueueStatus:
        """Return the state in brief. Never raises: an unreachable Redis is a status too."""
        try:
            return await read_status(self._call)
        except (QueueUnavailable, hiredis.ReplyError):
            return QueueStatus(reachable=False)

    async def load(self) -> QueueLoads:
        """Return the load of all queues and workers.

        Raises:
            QueueUnavailable
        """
        return await read_queue_loads(self._call)

    # Changing.

    async def cancel(self, job_id: str) -> JobRecord:
        """Cancel a job. A queued one never runs. A running one is killed, within a second even if
        the message to its worker is lost.

        Raises:
            JobNotFound, JobFinal, QueueUnavailable
        """
        answer = await self._run(script("cancel"), job_id)
        if answer == b"final":
            raise JobFinal(f"job {job_id} has ended and cannot be cancelled")
        record = None if answer == b"missing" else await self.job(job_id)
        if record is None:
            raise JobNotFound(f"no job has the id {job_id}")
        return record

    async def cancel_queued(self, function: str) -> int:
        """Cancel the queued and scheduled jobs of a function that was removed, and return how many
        there were. Running jobs go on.

        Raises:
            QueueUnavailable: some may be left.
        """
        cancelled = 0
        while taken := cast(int, await self._run(script("cancel_queued"), function, _CANCELLED_PER_SCRIPT)):
            cancelled += taken
        return cancelled

    async def worker_died(self, hostname: str, pid: int) -> int:
        """Queue a dead worker's jobs again at once instead of when their leases expire. Return how
        many there were.

        Only for a caller that saw the process end (its parent): a living worker's jobs would run
        twice.

        Raises:
            QueueUnavailable
        """
        prefix = f"{keys.RQ_WORKER}{hostname}.{pid}."
        names = [name.decode() for name in cast("list[bytes]", await self._call("SMEMBERS", keys.RQ_WORKERS))]
        dead = [name.removeprefix(keys.RQ_WORKER) for name in names if name.startswith(prefix)]
        return sum([cast(int, await self._run(script("worker_died"), LOST_EXC_STRING, name)) for name in dead])

    async def close_breaker(self, function: str) -> None:
        """Close the breaker of a function that was deployed again or now means another version:
        its earlier crashes no longer count.

        Raises:
            QueueUnavailable
        """
        await self._run(script("close_breaker"), function)

    # Transport.

    async def _call(self, *arguments: Argument) -> Reply:
        """Send one read command, repeated once after a reconnection."""
        try:
            return await self._pipeline.call(*arguments)
        except Unreachable:
            await self._pipeline.ready(RETRY_LIMIT_S)
            return await self._pipeline.call(*arguments)

    async def _run(self, what: Script, *arguments: Argument) -> Reply:
        """Run one idempotent script; see `_repeat`.

        Raises:
            QueueUnavailable
        """
        return await self._repeat(what.name, lambda: self._pipeline.run(what, *arguments))

    async def _repeat(self, name: str, send: Callable[[], asyncio.Future[Reply]]) -> Reply:
        """Repeat an idempotent call until it is answered or `RETRY_LIMIT_S` is over.

        Raises:
            QueueUnavailable
        """
        deadline = time.monotonic() + RETRY_LIMIT_S
        maybe_applied = False
        while True:
            try:
                return await send()
            except Unreachable as error:
                maybe_applied = maybe_applied or error.unknown
                reason = error.message
            except Refused as error:
                reason = error.message
                if "LOADING" not in reason:
                    raise
                await asyncio.sleep(0.05)
            except hiredis.ReplyError as error:
                raise Refused(f"Redis refuses {name}: {error}") from None
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not await self._pipeline.ready(left_s):
                doubt = (
                    "it may have been applied, but nothing was acknowledged"
                    if maybe_applied
                    else "nothing was submitted"
                )
                raise QueueUnavailable(f"{reason}; {doubt}", applied="unknown" if maybe_applied else "no")

    @property
    def round_trips(self) -> Histogram:
        """The round trips of all calls to Redis."""
        return self._pipeline.round_trips

    async def close(self) -> None:
        """End every wait as `WaitEnd.STOPPING`, then close the connections."""
        await self._admission.close()
        await self._followers.close()
        await self._notifications.close()
        await self._pipeline.close()


def _end_when_gone(disconnected: Callable[[], Awaitable[None]], future: ResultFuture) -> None:
    """End a wait as `CALLER_GONE` once `disconnected` returns. The task ends with the future."""

    async def watch() -> None:
        await disconnected()
        end_wait(future, WaitEnd.CALLER_GONE)

    watcher = asyncio.ensure_future(watch())
    future.add_done_callback(lambda _: watcher.cancel())
