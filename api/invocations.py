"""Submit invocations and wait for their ends, within the caller's options and the server's limits.

The end of a wait does not end the job: the caller gets the job's address instead. The exception is
a job with `cancel_on_disconnect`, which is cancelled when its waiting caller disconnects; for that,
`call` takes the request's ASGI scope and receive channel.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec
from starlette.types import Receive, Scope

from api.call_options import CallOptions
from api.http.body import ClientGone
from api.http.cycle import HUNG_UP
from sandlot.callback_policy import callback_hosts, check_callback_url
from sandlot.errors import CallbackRefused, SandlotError, ShuttingDown, WaitTimeout
from sandlot.functions import Version
from sandlot.jobs import JobRecord, JobResult, Queue, StoredResult, Submitted, WaitEnd
from sandlot.models import DEFAULT_RETRY, Invocation, JobStatus
from sandlot.redis.durability import Durability, DurabilityWatch
from sandlot.settings import Settings

JOBS_PATH: Final = "/v1/jobs/"


class Pending(msgspec.Struct, frozen=True):
    """An accepted invocation that had not ended when the caller stopped waiting."""

    job_id: str
    status: JobStatus
    durability: Durability
    record: JobRecord | None
    """The record of a job that existed already, under its idempotency key; None for a new job."""


class Invocations:
    """Makes, submits and awaits the invocations of one API process."""

    def __init__(self, queue: Queue, settings: Settings, watch: DurabilityWatch) -> None:
        self._queue = queue
        self._watch = watch
        self.large_results = queue.large_results
        self._wait_cap_s = settings.wait_cap_s
        self._queue_budget_s = settings.queue_budget_s
        self._result_ttl_s = settings.result_ttl_s
        self._delivered_ttl_s = settings.delivered_ttl_s
        self._callback_hosts = callback_hosts(settings)
        self._set_on_stop: set[asyncio.Event] = set()

    def new_job_id(self, owner: str) -> str:
        return self._queue.new_job_id(owner)

    def make_invocation(
        self,
        version: Version,
        event: bytes,
        owner: str,
        options: CallOptions,
        *,
        job_id: str = "",
        request: bytes = b"",
    ) -> Invocation:
        """Return an invocation of this version, with the limits of its manifest.

        Raises:
            CallbackRefused: the callback URL is not allowed, or the call waits for the end.
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
            # A manifest's result_ttl is for all results, delivered or not.
            delivered_ttl_s=0 if manifest.result_ttl_s else self._delivered_ttl_s,
            retry=manifest.retry.policy if manifest.retry is not None else DEFAULT_RETRY,
            concurrency=manifest.concurrency,
            delay_ms=options.delay_ms,
            not_after_ms=self._queue.now_ms() + options.expires_ms if options.expires_ms else 0,
            idempotency_key=options.idempotency_key,
            traceparent=options.traceparent,
            owner=owner,
            request=request,
            callback_url=self._callback_url(options) if options.callback_url else "",
            cancel_on_disconnect=(
                manifest.on_disconnect == "cancel"
                if options.cancel_on_disconnect is None
                else options.cancel_on_disconnect
            ),
        )

    def _callback_url(self, options: CallOptions) -> str:
        if not options.respond_async:
            raise CallbackRefused(
                "X-Callback-Url is only for calls that do not wait: send Prefer: respond-async with it, or leave it out"
            )
        return check_callback_url(options.callback_url, self._callback_hosts)

    async def call(
        self, invocation: Invocation, options: CallOptions, scope: Scope, receive: Receive
    ) -> JobResult | Pending:
        """Submit an invocation and wait for its end.

        With `respond_async` the wait may be zero or end early; then the job is returned as pending.

        Raises:
            WaitTimeout: the wait is over, the job is not, and the options lack `respond_async`.
            ShuttingDown: the same, because this process is stopping.
            JobGone: the idempotency key's job has ended and its result is no longer kept.
            ClientGone: the caller disconnected, and the job was cancelled, as the options or the
                manifest demand.
            QueueFull, NoWorker, IdempotencyConflict, QueueUnavailable: nothing was queued.
        """
        wait_s = self._wait_s(invocation, options)
        if wait_s is None:
            return await self.submit(invocation)
        ended = await self._queue.call(
            invocation,
            wait_s,
            hung_up=scope.get(HUNG_UP),
            disconnected=partial(_disconnected, receive) if invocation.cancel_on_disconnect else None,
        )
        if isinstance(ended, JobResult):
            return ended
        if ended.reason is WaitEnd.CALLER_GONE:
            raise ClientGone
        pending = await self._pending(ended.submitted)
        if options.respond_async:
            return pending
        raise _unfinished(ended.reason, wait_s, pending.job_id, (pending.record or invocation).version)

    async def read_stored(self, stored: StoredResult, scope: Scope) -> AsyncIterator[bytes]:
        """Yield a large result in chunks while it is sent.

        If the caller disconnects or a chunk cannot be read, the result was not delivered, and it is
        kept for the full retention instead of the shorter one of delivered results.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable: at any chunk.
        """
        try:
            async for chunk in self.large_results.read(stored, 0, stored.size_bytes):
                yield chunk
                if HUNG_UP in scope and scope[HUNG_UP]():
                    await self._queue.keep_result(stored.job_id)
                    return
        except SandlotError:
            await self._queue.keep_result(stored.job_id)
            raise

    async def submit(self, invocation: Invocation) -> Pending:
        """Queue an invocation without waiting for its end.

        Raises:
            QueueFull, NoWorker, IdempotencyConflict, QueueUnavailable: nothing was queued.
        """
        return await self._pending(await self._queue.submit(invocation, reply=False))

    async def submit_batch(
        self, invocations: Sequence[Invocation], options: CallOptions, fingerprint: str
    ) -> list[str]:
        """Queue all invocations or none, and return the job ids in order.

        If the idempotency key was used for the same batch before, those are the ids of that batch.

        Raises:
            QueueFull, NoWorker, IdempotencyConflict, QueueUnavailable: nothing was queued.
        """
        return await self._queue.submit_batch(invocations, options.idempotency_key, fingerprint)

    async def long_poll(self, job_id: str, wait_s: float) -> JobRecord | None:
        """Return the job once it has ended, or after `wait_s` or the server's cap."""
        return await self._queue.long_poll(job_id, min(wait_s, self._wait_cap_s))

    def release(self) -> None:
        """Answer all waiting callers, and those that still arrive, with their jobs' addresses.

        Called when this process stops.
        """
        self._queue.waiters.release()
        for event in self._set_on_stop:
            event.set()

    @contextlib.contextmanager
    def wake_on_stop(self, event: asyncio.Event) -> Iterator[None]:
        """Set the event when this process begins to stop, for as long as the block runs."""
        self._set_on_stop.add(event)
        try:
            yield
        finally:
            self._set_on_stop.discard(event)

    @property
    def durability(self) -> Durability:
        """The durability of a job that is acknowledged now."""
        return self._watch.held

    @property
    def stopping(self) -> bool:
        return self._queue.waiters.stopping

    @property
    def waiting(self) -> int:
        return self._queue.waiters.waiting

    def _wait_s(self, invocation: Invocation, options: CallOptions) -> float | None:
        if options.wait_s is not None:
            return options.wait_s
        if options.respond_async:
            return None
        return min(self._wait_cap_s, (invocation.wall_limit_ms + invocation.delay_ms) / 1000 + self._queue_budget_s)

    async def _pending(self, submitted: Submitted) -> Pending:
        record = await self._queue.job(submitted.job_id) if submitted.existing else None
        return Pending(submitted.job_id, submitted.status, self.durability, record)


def _unfinished(reason: WaitEnd, wait_s: float, job_id: str, version: int) -> WaitTimeout | ShuttingDown:
    kind, text = (
        (ShuttingDown, "this server is stopping")
        if reason is WaitEnd.STOPPING
        else (WaitTimeout, f"the function has not ended after {wait_s:g} s of waiting")
    )
    location = JOBS_PATH + job_id
    return kind(
        f"{text}; the job goes on; ask for it at {location}",
        location=location,
        job={"id": job_id, "version": version, "links": {"self": location}},
    )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
