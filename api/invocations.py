"""Submit an invocation and wait for its end, as long as the caller wishes and the server allows.

Knows: what waiting may end in. Does not know: requests, replies, where an invocation came from.
The wait never ends the job: whoever stops waiting is told where the job is. The one exception is a caller who asked that hanging up
cancels it.
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
    """Of a job that was there before, found by its idempotency key; a new one has nothing in its record that the caller does not know."""


class Invocations:
    def __init__(self, queue: Queue, settings: Settings, watch: DurabilityWatch) -> None:
        self._queue = queue
        self._watch = watch
        self.results = queue.large_results
        self._wait_cap_s = settings.wait_cap_s
        self._queue_budget_s = settings.queue_budget_s
        self._result_ttl_s = settings.result_ttl_s
        self._delivered_ttl_s = settings.delivered_ttl_s
        self._callback_hosts = callback_hosts(settings)
        self._following: set[asyncio.Event] = set()

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
        if wish.respond_async:
            return pending
        raise _unfinished(ended.reason, wait_s, pending.job_id, (pending.record or invocation).version)

    async def pieces(self, stored: StoredResult, scope: Scope) -> AsyncIterator[bytes]:
        """A large result while it is sent. If the caller does not stay, or the rest cannot be had, the job is kept as if nobody had waited.

        Raises:
            JobGone, UnsafeRecord, QueueUnavailable: at any piece.
        """
        try:
            async for piece in self.results.read(stored, 0, stored.size_bytes):
                yield piece
                if HUNG_UP in scope and scope[HUNG_UP]():
                    await self._queue.keep_result(stored.job_id)
                    return
        except SandlotError:
            await self._queue.keep_result(stored.job_id)
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
        return await self._queue.long_poll(job_id, min(wait_s, self._wait_cap_s))

    def release(self) -> None:
        """Answer everybody who waits, and whoever still comes, with the place of their job: this process stops."""
        self._queue.waiters.release()
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
        return self._queue.waiters.stopping

    @property
    def waiting(self) -> int:
        return self._queue.waiters.waiting

    def _wait_s(self, invocation: Invocation, wish: CallOptions) -> float | None:
        if wish.wait_s is not None:
            return wish.wait_s
        if wish.respond_async:
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
        f"{text}; the job goes on, ask for it at {location}",
        location=location,
        job={"id": job_id, "version": version, "links": {"self": location}},
    )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
