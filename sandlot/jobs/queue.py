"""The queue as the API, the CLI and the tests use it: submit, wait, look, cancel.

Knows: the scripts' arguments and answers, who in this process waits for what. Does not know: HTTP, who may do it, how a job is executed.
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

from sandlot.errors import (
    JobFinal,
    JobNotFound,
    QueueUnavailable,
    SandlotError,
)
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
    known_status,
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
from sandlot.jobs.submit import SubmitBatcher, arguments_of, job_gone, refusal, scoped_key, short_of_memory
from sandlot.metrics import Histogram
from sandlot.models import Invocation, JobStatus
from sandlot.offload import offload
from sandlot.redis import keys
from sandlot.redis.clock import RedisClock
from sandlot.redis.lua import Script, script
from sandlot.redis.pipeline import Argument, RedisPipeline, Refused, Reply, Unreachable
from sandlot.redis.schema import check_schema

log = logging.getLogger(__name__)

CALL_PATIENCE_S: Final = 3.0
"""How long an idempotent call is repeated while Redis is away: a restart passes unnoticed, an outage is reported soon."""
KEEP_PATIENCE_S: Final = 0.5
"""A caller who is told where his job is does not wait longer for this."""
_CANCELLED_PER_SCRIPT: Final = 500
"""In one script, for which everybody else waits: some 10 µs each."""


class Submitted(msgspec.Struct, frozen=True):
    """`existing`: the id or the idempotency key was known, and this is that job."""

    job_id: str
    existing: bool
    status: JobStatus


class Unfinished(msgspec.Struct, frozen=True):
    """A job that had not ended when its caller's wait did."""

    submitted: Submitted
    reason: WaitEnd


class Queue:
    """One per process: one pipelined connection, one subscription."""

    def __init__(
        self, url: str, pipeline: RedisPipeline, signing_key: bytes, queue_limit: int, queue_limit_per_function: int
    ) -> None:
        self._url = url
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
        """The clock by which jobs expire."""

    @classmethod
    async def open(cls, url: str, signing_key: bytes, *, queue_limit: int, queue_limit_per_function: int) -> Queue:
        """
        Raises:
            QueueUnavailable: Redis cannot be reached or refuses us.
            SchemaMismatch: what is in it is not ours to touch.
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

    async def submit(self, invocation: Invocation, *, reply: bool) -> Submitted:
        """Queue one invocation, or hand it straight to an idle worker. Repeated by itself while Redis is away: it is idempotent.

        Raises:
            QueueFull, NoWorker, FunctionCrashLoop, IdempotencyConflict: it was not queued.
            QueueUnavailable: nothing was acknowledged; the message says whether it may have been queued all the same.
        """
        if percent := self._admission.memory_percent():
            raise short_of_memory(percent)
        arguments = await offload(
            len(invocation.event), arguments_of, self._key, invocation, self._channel if reply else ""
        )
        answer = cast("list[bytes]", await self._repeat("submit", lambda: self._submits.send(arguments)))
        code = answer[0]
        if code in (b"new", b"existing"):
            job_id = answer[1].decode()
            # A repeated call finds the job of its own first try.
            existing = code == b"existing" and job_id != invocation.job_id
            return Submitted(job_id, existing, known_status(answer[2], answer[3]))
        raise refusal(invocation, answer)

    async def submit_batch(
        self, invocations: Sequence[Invocation], idempotency_key: str, fingerprint: str
    ) -> list[str]:
        """Queue all of one function's invocations or none, in one script; the ids of the jobs, in order.

        Args:
            idempotency_key: of the whole batch; the invocations have none of their own. Empty for none.
            fingerprint: what must be the same for the key to mean the same batch, without spaces.

        Raises:
            QueueFull, NoWorker, IdempotencyConflict: none was queued.
            QueueUnavailable: nothing was acknowledged.
        """
        scoped = scoped_key(invocations[0].owner, idempotency_key) if idempotency_key else ""
        arguments = await asyncio.to_thread(
            lambda: [argument for invocation in invocations for argument in arguments_of(self._key, invocation, "")]
        )
        answers = cast(
            "list[list[bytes]]",
            await self._repeat("submit", lambda: self._submits.send_whole(arguments, scoped, fingerprint)),
        )
        if answers[0][0] in (b"new", b"existing"):
            return [answer[1].decode() for answer in answers]
        raise refusal(invocations[0], answers[0])

    async def _run(self, what: Script, *arguments: Argument) -> Reply:
        """One idempotent script; see `_repeat`.

        Raises:
            QueueUnavailable
        """
        return await self._repeat(what.name, lambda: self._pipeline.run(what, *arguments))

    async def _repeat(self, name: str, send: Callable[[], asyncio.Future[Reply]]) -> Reply:
        """An idempotent call, repeated until it is answered or patience ends.

        Raises:
            QueueUnavailable
        """
        deadline = time.monotonic() + CALL_PATIENCE_S
        maybe = False
        while True:
            try:
                return await send()
            except Unreachable as error:
                maybe = maybe or error.unknown
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
                doubt = "it may have been applied, but nothing was acknowledged" if maybe else "nothing was submitted"
                raise QueueUnavailable(f"{reason}; {doubt}", applied="unknown" if maybe else "no")

    # Waiting.

    async def call(
        self,
        invocation: Invocation,
        wait_s: float,
        *,
        hung_up: Callable[[], bool] | None = None,
        disconnected: Callable[[], Awaitable[None]] | None = None,
    ) -> JobResult | Unfinished:
        """Submit an invocation and wait up to `wait_s` for its end. The job goes on when the wait ends first.

        An idempotency key that is in use joins the wait for the job that has it.

        Args:
            hung_up: tells whether the caller's connection is closed by the time the end is there; then the result is
                kept as long as if nobody had waited.
            disconnected: returns once the caller is gone; the job is then cancelled. It costs a task per call.

        Raises:
            JobGone: the idempotency key's job has ended and its result is no longer kept.
            QueueFull, NoWorker, FunctionCrashLoop, IdempotencyConflict, QueueUnavailable: as `submit`.
            UnsafeRecord: the recorded end was tampered with.
        """
        job_id, timer = invocation.job_id, None
        future = self.waiters.register(job_id)
        try:
            submitted = await self.submit(invocation, reply=True)
            if submitted.existing and submitted.job_id != job_id:
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
            return await self._leave(submitted, ended)
        finally:
            self.waiters.unregister(job_id, future)
            if timer is not None:
                timer.cancel()

    async def _leave(self, submitted: Submitted, reason: WaitEnd) -> Unfinished:
        if reason is WaitEnd.CALLER_GONE:
            with contextlib.suppress(JobFinal, JobNotFound):  # it ended by itself, just now
                await self.cancel(submitted.job_id)
        # The caller, who learns the job's address, may ask for it for as long as any other.
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
            if await self.add_waiter(job_id):  # else it ended in between
                timer = self.waiters.set_deadline(future, wait_s)
                await future
            return await self.job(job_id)
        finally:
            self.waiters.unregister(job_id, future)
            if timer is not None:
                timer.cancel()

    async def keep_result(self, job_id: str) -> None:
        """Its caller waited, and was not given the end: keep that as long as if nobody had waited. Never raises: a job's shorter life
        is still minutes long, and whoever was to be told of this has an answer to send."""
        try:
            async with asyncio.timeout(KEEP_PATIENCE_S):
                await self._run(script("keep_result"), job_id)
        except (TimeoutError, QueueUnavailable) as error:
            log.warning("result may be kept shorter", extra={"job_id": job_id, "error": str(error)})

    async def add_waiter(self, job_id: str) -> bool:
        """Ask for the end of a job that somebody else submitted to be published here as well; false if there is none to come."""
        return bool(await self._run(script("add_waiter"), job_id, self._channel))

    def new_job_id(self, owner: str) -> str:
        return new_job_id(self._key, owner)

    def was_issued(self, owner: str, job_id: str) -> bool:
        """Whether this is the id of a job that this owner submitted at some time, kept or not."""
        return was_issued(self._key, owner, job_id)

    # Looking.

    async def list_jobs(
        self, wanted: Callable[[JobRecord], bool], *, function: str, limit: int, cursor: str
    ) -> JobPage:
        """Jobs that are wanted, of one function or (empty) of all, newest first; see `read_job_page`.

        Raises:
            QueueUnavailable
        """
        return await read_job_page(self._call, self._key, wanted, function=function, limit=limit, cursor=cursor)

    async def job(self, job_id: str) -> JobRecord | None:
        """
        Raises:
            QueueUnavailable: Redis did not answer.
            UnsafeRecord: the record was tampered with.
        """
        hash_call = self._call("HMGET", keys.JOB + job_id, *JOB_FIELDS)
        logs_call = self._call("GETRANGE", keys.LOGS + job_id, -LOGS_TAIL_BYTES, -1)
        fields = cast("list[bytes | None]", await hash_call)
        logs_tail = cast(bytes, await logs_call)
        record = record_from(self._key, job_id, fields, logs_tail)
        order = fields[JOB_FIELDS.index(keys.ORDER)]
        if record is not None and order is not None:
            record = msgspec.structs.replace(record, callback=await self._callback(job_id, order))
        if record is None or record.status is not JobStatus.QUEUED or fields[-1] is None:
            return record
        name = fields[-1].decode()
        position, eta = await queue_eta(self._run, name, job_id)
        return msgspec.structs.replace(record, queue_position=position, eta_s=eta)

    async def _callback(self, job_id: str, order: bytes) -> CallbackState:
        found = self._call("HMGET", keys.CALLBACK + job_id, *STATE_FIELDS)
        due_ms = cast("bytes | None", await self._call("ZSCORE", keys.CALLBACKS, job_id))
        return state_from(self._key, job_id, order, cast("list[bytes | None]", await found), due_ms)

    async def result(self, job_id: str) -> JobResult | None:
        """The recorded end of a job, for late readers; nothing while there is none.

        Raises:
            QueueUnavailable, UnsafeRecord
        """
        fields = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, *JOB_FIELDS))
        end_text = fields[JOB_FIELDS.index(keys.END)]
        record = record_from(self._key, job_id, fields) if end_text is not None else None
        if record is None or end_text is None:
            return None
        result = await self._result(job_id) if record.result_bytes and record.stored is None else b""
        end = read_outcome_record(self._key, job_id, end_text)
        return await offload(
            len(result), job_result_from, job_id, end, result, function=record.function, version=record.version
        )

    async def _result(self, job_id: str) -> bytes:
        entries = cast("list[list[object]]", await self._call("XREVRANGE", keys.RESULTS + job_id, "+", "-", "COUNT", 1))
        if not entries:
            return b""
        flat = cast("list[bytes]", entries[0][1])
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        value = fields.get(b"return_value", b"")
        return await offload(len(value), decode_return_value, value)

    async def event(self, job_id: str) -> bytes | None:
        """The event a job was submitted with, to submit it again; nothing for a job that is not there.

        Raises:
            UnsafeRecord: it is not what was signed; submitting it again would sign it.
        """
        fields = cast("list[bytes | None]", await self._call("HMGET", keys.JOB + job_id, keys.ENVELOPE, "data"))
        sealed, data = fields
        return None if sealed is None or data is None else unseal(self._key, job_id, sealed, data)[1]

    async def logs(self, job_id: str) -> bytes | None:
        """All that is kept of a job's output; nothing if there is none."""
        return cast("bytes | None", await self._call("GET", keys.LOGS + job_id))

    def follow(self, job_id: str) -> AbstractContextManager[Follower]:
        """How a job stands, told whenever that changes; while anybody follows it, its worker says what it prints."""
        return self._followers.follow(job_id)

    async def read_logs(self, job_id: str, attempt: int | None, from_byte: int) -> bytes:
        """What a job has printed, from that byte on: while an attempt runs, of that attempt; with `None`, of the one that ended it."""
        name = keys.LOGS + job_id if attempt is None else f"{keys.LIVE}{job_id}:{attempt}"
        return cast(bytes, await self._call("GETRANGE", name, from_byte, -1))

    async def _call(self, *arguments: Argument) -> Reply:
        """A read, repeated once after a reconnection."""
        try:
            return await self._pipeline.call(*arguments)
        except Unreachable:
            await self._pipeline.ready(CALL_PATIENCE_S)
            return await self._pipeline.call(*arguments)

    # Acting.

    async def cancel(self, job_id: str) -> JobRecord:
        """Queued: it never runs. Running: it is killed, within a second even if the message to its worker is lost.

        Raises:
            JobNotFound, JobFinal, QueueUnavailable
        """
        answer = await self._run(script("cancel"), job_id)
        if answer == b"final":
            raise JobFinal(f"job {job_id} has ended and cannot be cancelled")
        record = None if answer == b"missing" else await self.job(job_id)
        if record is None:
            raise JobNotFound(f"there is no job {job_id}")
        return record

    async def cancel_queued(self, function: str) -> int:
        """End, as cancelled, what waits of a function that was removed; how many jobs. What runs goes on.

        Raises:
            QueueUnavailable: some may be left.
        """
        cancelled = 0
        while taken := cast(int, await self._run(script("cancel_queued"), function, _CANCELLED_PER_SCRIPT)):
            cancelled += taken
        return cancelled

    async def worker_died(self, hostname: str, pid: int) -> int:
        """A worker process is known to be dead: its jobs run again at once instead of when their leases run out. Returns how many.

        Only for who saw it end (its parent): the jobs of a living worker would run twice.

        Raises:
            QueueUnavailable
        """
        prefix = f"{keys.RQ_WORKER}{hostname}.{pid}."
        names = [name.decode() for name in cast("list[bytes]", await self._call("SMEMBERS", keys.RQ_WORKERS))]
        dead = [name.removeprefix(keys.RQ_WORKER) for name in names if name.startswith(prefix)]
        return sum([cast(int, await self._run(script("worker_died"), LOST_EXC_STRING, name)) for name in dead])

    async def close_breaker(self, function: str) -> None:
        """It has been deployed anew, or means another version: what it did before is no reason to hold it back.

        Raises:
            QueueUnavailable
        """
        await self._run(script("close_breaker"), function)

    async def open_breakers(self) -> list[str]:
        """The queues whose function crashes too often.

        Raises:
            QueueUnavailable
        """
        return [name.decode() for name in cast("list[bytes]", await self._call("HKEYS", keys.BREAKERS))]

    async def status(self) -> QueueStatus:
        """Never raises: a queue that cannot be reached is a status."""
        try:
            return await read_status(self._call)
        except (QueueUnavailable, hiredis.ReplyError):
            return QueueStatus(reachable=False)

    async def load(self) -> QueueLoads:
        """How much work waits, and who works on it.

        Raises:
            QueueUnavailable
        """
        return await read_queue_loads(self._call)

    @property
    def round_trips(self) -> Histogram:
        """To Redis, of every call."""
        return self._pipeline.round_trips

    async def close(self) -> None:
        """End every wait as `WaitEnd.STOPPING`, then close the connections."""
        await self._admission.close()
        await self._followers.close()
        await self._notifications.close()
        await self._pipeline.close()


def _end_when_gone(disconnected: Callable[[], Awaitable[None]], future: ResultFuture) -> None:
    async def watch() -> None:
        await disconnected()
        end_wait(future, WaitEnd.CALLER_GONE)

    watcher = asyncio.ensure_future(watch())
    future.add_done_callback(lambda _: watcher.cancel())
