"""Submit an invocation and wait for its end, as long as the caller wishes and the server allows.

Knows: what waiting may end in. Does not know: requests, replies, where an invocation came from.
The wait never ends the job: whoever stops waiting is told where the job is. The one exception is a caller who asked that hanging up
cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import msgspec
from starlette.types import Receive, Scope

from api.call_options import CallOptions
from api.http.body import ClientGone
from api.http.cycle import HUNG_UP
from sandlot.callback_policy import callback_hosts, check_callback_url
from sandlot.errors import CallbackRefused, JobFinal, JobGone, JobNotFound, SandlotError, ShuttingDown, WaitTimeout
from sandlot.functions import Version
from sandlot.jobs import JobRecord, JobResult, Queue, StoredResult, Submitted
from sandlot.models import DEFAULT_RETRY, Invocation, JobStatus
from sandlot.redis.durability import Durability, DurabilityWatch
from sandlot.settings import Settings

JOBS_PATH: Final = "/v1/jobs/"
_STOPPING: Final = "this server is stopping"


class Pending(msgspec.Struct, frozen=True):
    """An accepted invocation that had not ended when the caller stopped waiting."""

    job_id: str
    status: JobStatus
    durability: Durability
    record: JobRecord | None
    """Of a job that was there before, found by its idempotency key; a new one has nothing in its record that the caller does not know."""


class Invocations:
    def __init__(self, queue: Queue, settings: Settings, watch: DurabilityWatch) -> None:
        self._queue = queue
        self._watch = watch
        self.results = queue.results
        self._wait_cap_s = settings.wait_cap_s
        self._queue_budget_s = settings.queue_budget_s
        self._result_ttl_s = settings.result_ttl_s
        self._delivered_ttl_s = settings.delivered_ttl_s
        self._callback_hosts = callback_hosts(settings)
        self._waiting: set[asyncio.Future[JobResult]] = set()
        self._following: set[asyncio.Event] = set()
        self._stopping = False

    def new_job_id(self, owner: str) -> str:
        return self._queue.new_job_id(owner)

    def invocation(
        self, version: Version, event: bytes, owner: str, wish: CallOptions, *, job_id: str = "", request: bytes = b""
    ) -> Invocation:
        """
        Raises:
            CallbackRefused: somebody is to be told of the end who is not told by this server, or whoever asks for it waits for the end himself.
        """
        manifest = version.manifest
        return Invocation(
            job_id=job_id or self._queue.new_job_id(owner),
            function=version.function,
            version=version.number,
            digest=version.digest,
            placement=version.placement,
            event=event,
            wall_limit_ms=round(manifest.timeout_s * 1000),
            result_ttl_s=round(manifest.result_ttl_s) if manifest.result_ttl_s else self._result_ttl_s,
            # A function that says how long its results can be fetched means all of them.
            delivered_ttl_s=0 if manifest.result_ttl_s else self._delivered_ttl_s,
            retry=manifest.retry.policy if manifest.retry is not None else DEFAULT_RETRY,
            concurrency=manifest.concurrency,
            delay_ms=wish.delay_ms,
            not_after_ms=self._queue.now_ms() + wish.expires_ms if wish.expires_ms else 0,
            idempotency_key=wish.idempotency_key,
            traceparent=wish.traceparent,
            owner=owner,
            request=request,
            callback_url=self._callback_url(wish) if wish.callback_url else "",
            cancel_on_disconnect=(
                manifest.on_disconnect == "cancel" if wish.cancel_on_disconnect is None else wish.cancel_on_disconnect
            ),
        )

    def _callback_url(self, wish: CallOptions) -> str:
        if not wish.respond_async:
            raise CallbackRefused(
                "X-Callback-Url is for calls that nobody waits for: send Prefer: respond-async with it, or leave it out"
            )
        return check_callback_url(wish.callback_url, self._callback_hosts)

    async def call(
        self, invocation: Invocation, wish: CallOptions, scope: Scope, receive: Receive
    ) -> JobResult | Pending:
        """The end of the job, or the fact that it is not over and the caller wished not to wait (any longer).

        Raises:
            WaitTimeout: it is not over, and the caller wished for nothing but its end.
            ShuttingDown: the same, because this process stops.
            JobGone: the idempotency key's job is over and its result no longer kept.
            ClientGone: the caller hung up, and this cancels the job, as he or the function's manifest had said.
            QueueFull, NoWorker, IdempotencyConflict, QueueUnavailable: nothing was queued.
        """
        wait_s = self._wait_s(invocation, wish)
        if wait_s is None:
            return await self.submit(invocation)
        future = self._queue.expect(invocation.job_id)
        job_id = invocation.job_id
        try:
            submitted = await self._queue.submit(invocation, reply=True)
            if submitted.existing and submitted.job_id != job_id:
                self._queue.forget(job_id, future)
                job_id = submitted.job_id
                future = self._queue.expect(job_id)
                if submitted.status.final:
                    return await self._replay(job_id)
            watched = receive if invocation.cancel_on_disconnect else None
            settled = await self._wait(future, job_id, wait_s, watched)
        except (WaitTimeout, ShuttingDown) as error:
            # Whoever is told where the job is may ask for it for as long as any other.
            await self._queue.keep(job_id)
            pending = await self._pending(submitted)
            if wish.respond_async:
                return pending
            raise _unfinished(type(error), error.message, job_id, (pending.record or invocation).version) from error
        else:
            if HUNG_UP in scope and scope[HUNG_UP]():
                await self._queue.keep(job_id)
            return settled
        finally:
            self._queue.forget(job_id, future)

    async def pieces(self, stored: StoredResult, scope: Scope) -> AsyncIterator[bytes]:
        """A large result while it is sent. If the caller does not stay, or the rest cannot be had, the job is kept as if nobody had waited.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable: at any piece.
        """
        try:
            async for piece in self.results.read(stored, 0, stored.size_bytes):
                yield piece
                if HUNG_UP in scope and scope[HUNG_UP]():
                    await self._queue.keep(stored.job_id)
                    return
        except SandlotError:
            await self._queue.keep(stored.job_id)
            raise

    async def submit(self, invocation: Invocation) -> Pending:
        """Queue it, and wait for nothing.

        Raises:
            QueueFull, NoWorker, IdempotencyConflict, QueueUnavailable: nothing was queued.
        """
        return await self._pending(await self._queue.submit(invocation, reply=False))

    async def submit_batch(self, invocations: Sequence[Invocation], wish: CallOptions, fingerprint: str) -> list[str]:
        """Queue all of them or none; their ids, in order, or those of the batch that this idempotency key had before.

        Raises:
            QueueFull, NoWorker, IdempotencyConflict, QueueUnavailable: none was queued.
        """
        return await self._queue.submit_batch(invocations, wish.idempotency_key, fingerprint)

    async def watch(self, job_id: str, wait_s: float) -> JobRecord | None:
        """The job, as soon as it is over and after `wait_s` at the latest: a long poll."""
        future = self._queue.expect(job_id)
        try:
            record = await self._queue.job(job_id)
            if record is None or record.status.final or self._stopping:
                return record
            if not await self._queue.attach(job_id):  # it ended in between
                return await self._queue.job(job_id)
            with contextlib.suppress(WaitTimeout, ShuttingDown):
                await self._wait(future, job_id, min(wait_s, self._wait_cap_s))
            return await self._queue.job(job_id)
        finally:
            self._queue.forget(job_id, future)

    def release(self) -> None:
        """Answer everybody who waits, and whoever still comes, with the place of their job: this process stops."""
        self._stopping = True
        for future in self._waiting:
            _end(future, ShuttingDown(_STOPPING))
        for wake in self._following:
            wake.set()

    @contextlib.contextmanager
    def following(self, wake: asyncio.Event) -> Iterator[None]:
        """Whoever follows a job waits for this event, which is also set when this process begins to stop."""
        self._following.add(wake)
        try:
            yield
        finally:
            self._following.discard(wake)

    @property
    def durability(self) -> Durability:
        """What holds of a job that is acknowledged now."""
        return self._watch.held

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _wait_s(self, invocation: Invocation, wish: CallOptions) -> float | None:
        if wish.wait_s is not None:
            return wish.wait_s
        if wish.respond_async:
            return None
        return min(self._wait_cap_s, (invocation.wall_limit_ms + invocation.delay_ms) / 1000 + self._queue_budget_s)

    async def _wait(
        self, future: asyncio.Future[JobResult], job_id: str, wait_s: float, watched: Receive | None = None
    ) -> JobResult:
        """
        Args:
            future: this wait's own.
            watched: the connection whose end cancels the job.
        """
        timer = asyncio.get_running_loop().call_later(wait_s, _time_is_up, future, wait_s)
        # A task per call is why a connection is not watched for everybody.
        watcher = asyncio.ensure_future(_end_when_gone(watched, future)) if watched is not None else None
        self._waiting.add(future)
        if self._stopping:
            _end(future, ShuttingDown(_STOPPING))
        try:
            return await future
        except ClientGone:
            with contextlib.suppress(JobFinal, JobNotFound):  # it ended by itself, just now
                await self._queue.cancel(job_id)
            await self._queue.keep(job_id)
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ShuttingDown(_STOPPING) from None  # it was the future's: the queue is closed
        finally:
            self._waiting.discard(future)
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _pending(self, submitted: Submitted) -> Pending:
        record = await self._queue.job(submitted.job_id) if submitted.existing else None
        return Pending(submitted.job_id, submitted.status, self.durability, record)

    async def _replay(self, job_id: str) -> JobResult:
        settled = await self._queue.settled(job_id)
        if settled is None:
            raise JobGone(
                f"the job {job_id} of this idempotency key has ended, and its result is no longer kept",
                job={"id": job_id},
            )
        return settled


def _unfinished(
    kind: type[WaitTimeout] | type[ShuttingDown], reason: str, job_id: str, version: int
) -> WaitTimeout | ShuttingDown:
    location = JOBS_PATH + job_id
    return kind(
        f"{reason}; the job goes on, ask for it at {location}",
        location=location,
        job={"id": job_id, "version": version, "links": {"self": location}},
    )


def _end(future: asyncio.Future[JobResult], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _time_is_up(future: asyncio.Future[JobResult], wait_s: float) -> None:
    _end(future, WaitTimeout(f"the function has not ended after {wait_s:g} s of waiting"))


async def _end_when_gone(receive: Receive, future: asyncio.Future[JobResult]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    _end(future, ClientGone())
