"""The engine: an RQ worker in RQ's eyes, whose work is the dispatcher's.

`rq.worker.BaseWorker` (3.0) contributes birth, death and registration. RQ's loop, its pub/sub
commands, its scheduler and `perform` obey what Redis says (names to import, callbacks, webhooks,
shutdowns), so none of them is reachable here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Final, NoReturn

import redis
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from sandlot.errors import QueueUnavailable
from sandlot.jobs.worker_queue import LEASE_S, Heartbeat, WorkerQueue
from worker.engine.capacity import Scaling
from worker.engine.dispatcher import Dispatcher
from worker.engine.log_stream import LogStream
from worker.execution import Executor
from worker.metrics.counts import WorkerCounts

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
"""Four heartbeats fit into a lease, so that three may be lost."""
CONTACT_BEFORE_REAPING_S: Final = 2.0
"""After an outage of Redis every lease has expired although every worker lives. Each worker gets
two heartbeats to renew its leases before any worker reaps."""
REAP_PAUSE_S: Final = 0.1
"""Between heartbeats a worker reaps again at the moment when a lease expires or a job becomes due,
instead of up to a second later, but not more often than this."""
SETTLE_LIMIT_S: Final = 5.0
"""Time at the end of a drain for recording finished work when Redis is away."""
REGISTRATION_TTL_S: Final = 60
"""How long RQ's tools show a worker that was killed. Each heartbeat renews it."""


def worker_name() -> str:
    """Return a new name with host and pid for readers, and random digits.

    It must be unique: the registration of a worker that was just killed still exists.
    """
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"


class Registration(BaseWorker):
    """An `rq.worker.BaseWorker` that uses RQ's registration and nothing else of it."""

    def __init__(self, connection: redis.Redis, name: str, placements: Sequence[str]) -> None:
        # A worker serves every queue of its placements, whichever functions there are; `rq info`
        # shows that as `*@python`. RQ separates names by commas, so tags are joined by a plus.
        queues = [f"*@{placement.replace(',', '+')}" for placement in placements]
        super().__init__(
            queues, name=name, connection=connection, serializer=JSONSerializer, worker_ttl=REGISTRATION_TTL_S
        )

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Return the connection unchanged.

        RQ would raise the socket's timeout to minutes for its blocking pops; nothing blocks here.
        """
        return connection

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("a Sandlot worker does not run RQ's own loop; use Engine.run")

    work = bootstrap = subscribe = handle_payload = _refuse
    execute_job = perform_job = main_work_horse = prepare_execution = prepare_job_execution = _refuse
    dequeue_job_and_maintain_ttl = maintain_heartbeats = clean_registries = run_maintenance_tasks = _refuse
    handle_job_success = handle_job_failure = handle_job_retry = handle_exception = _start_scheduler = _refuse
    _install_signal_handlers = request_stop = request_force_stop = _refuse


class Engine(Registration):
    """An RQ worker on an event loop. `run` it once."""

    def __init__(
        self,
        connection: redis.Redis,
        queue: WorkerQueue,
        pool: Executor,
        counts: WorkerCounts,
        *,
        drain_s: float,
        scaling: Scaling | None = None,
    ) -> None:
        """
        Args:
            connection: blocking, for RQ's own registration; used in a thread, at birth and death.
            drain_s: how long running jobs may go on after the first SIGTERM or SIGINT.
            scaling: sets the number of slots; without it, the pool's number stays.
        """
        super().__init__(connection, queue.name, queue.placements)
        self._queue = queue
        self._counts = counts
        self._scaling = scaling
        self._reported_ends = 0
        self._dispatcher = Dispatcher(queue, pool, counts)
        self._log_stream = LogStream(queue, pool.output_of, self._dispatcher.attempt_of)
        self._drain_s = drain_s
        self._stop = asyncio.Event()
        self._stop_at_once = asyncio.Event()
        self._contact_since_s: float | None = None
        self._reap_at_s = math.inf

    @property
    def slots(self) -> int:
        """Number of slots at this moment."""
        return self._dispatcher.slots

    def stop(self) -> None:
        """Finish running jobs and end; at the second call, give running jobs back at once."""
        if self._stop.is_set():
            self._stop_at_once.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop` (or SIGTERM, SIGINT), then drain.

        Raises:
            QueueUnavailable: Redis went away before work began.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self._begin()
            heartbeats = asyncio.create_task(self._send_heartbeats(), name="heartbeats")
            try:
                await self._stop.wait()
                await self._drain()
            finally:
                heartbeats.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await heartbeats
        finally:
            await self._log_stream.close()
            # The signal handlers stay, so that one more signal does not kill a closing worker. They
            # go with the loop.
            await self._deregister()
            await self._dispatcher.close()

    async def _begin(self) -> None:
        await self._in_thread(self.register_birth)
        dispatcher = self._dispatcher
        # The heartbeat comes first: a step parks slots, and submits hand jobs only to workers with
        # a heartbeat.
        await self._queue.heartbeat(self._heartbeat_of_now())
        self._queue.on_follow = self._log_stream.follow
        await self._queue.listen(
            dispatcher.on_hand_off, dispatcher.request_work, dispatcher.cancel, dispatcher.on_subscribed
        )
        log.info(
            "worker started",
            extra={"worker": self.name, "placements": ",".join(self._queue.placements), "version": version("sandlot")},
        )

    async def _in_thread(self, call: Callable[[], object]) -> None:
        """Run one of RQ's blocking calls.

        Raises:
            QueueUnavailable
        """
        try:
            await asyncio.to_thread(call)
        except redis.RedisError as error:
            raise QueueUnavailable(f"Redis does not answer: {error}") from None

    # Heartbeats and reaping.

    async def _send_heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            # Without drift, and without catching up after a pause.
            next_s = max(next_s + HEARTBEAT_S, loop.time())
            while self._reap_at_s < next_s:
                await self._at(self._reap_at_s, self._reap)
            await self._at(next_s, self._heartbeat)

    async def _at(self, moment_s: float, act: Callable[[], Awaitable[None]]) -> None:
        """Call Redis at a moment of the loop's clock, and note if contact is lost."""
        await asyncio.sleep(moment_s - asyncio.get_running_loop().time())
        self._reap_at_s = math.inf
        try:
            await act()
        except QueueUnavailable as error:
            if self._contact_since_s is not None:
                log.warning("heartbeat failed", extra={"error": error.message})
            self._contact_since_s = None

    async def _heartbeat(self) -> None:
        """Renew leases and the registration, and act on the answer.

        Raises:
            QueueUnavailable
        """
        dispatcher, now_s = self._dispatcher, asyncio.get_running_loop().time()
        known = set(dispatcher.leases)
        reply = await self._queue.heartbeat(self._heartbeat_of_now())
        # A lease that was settled while the heartbeat was in flight is not held any more, but it is
        # not lost either.
        dispatcher.on_leases_lost([lease for lease in reply.lost if lease in known])
        for job_id in reply.cancels:
            dispatcher.cancel(job_id)
        if reply.should_claim:
            dispatcher.request_work()
        if self._scaling is not None and not dispatcher.draining:
            self._resize(self._scaling.slots_after(dispatcher.slots, dispatcher.running, reply.work_waits))
        if self._counts.outcomes != self._reported_ends:
            self._reported_ends = self._counts.outcomes
            self._queue.report_stats(self._counts.stats())
        if not reply.registered:
            await self._in_thread(self._register_again)
        if self._contact_since_s is None:
            self._contact_since_s = now_s
        if now_s - self._contact_since_s >= CONTACT_BEFORE_REAPING_S:
            await self._reap()

    def _heartbeat_of_now(self) -> Heartbeat:
        dispatcher, totals = self._dispatcher, self._dispatcher.totals
        return Heartbeat(
            state="busy" if dispatcher.running else "idle",
            successes=totals.successes,
            failures=totals.failures,
            working_s=totals.working_s,
            registration_ttl_s=REGISTRATION_TTL_S,
            free=0 if dispatcher.draining else dispatcher.free,
            leases=dispatcher.leases,
            slots=dispatcher.slots,
            busy=dispatcher.running,
        )

    def _resize(self, slots: int) -> None:
        dispatcher = self._dispatcher
        if slots != dispatcher.slots:
            log.info("slots", extra={"worker": self.name, "slots": slots, "before": dispatcher.slots})
            dispatcher.resize(slots)

    async def _reap(self) -> None:
        """Take back expired leases of any worker, and queue delayed jobs that are due.

        Raises:
            QueueUnavailable
        """
        found = await self._queue.reap()
        self._counts.requeued += found.requeued
        self._counts.given_up += found.lost
        if found.requeued or found.lost:
            log.warning("leases expired", extra={"queued_again": found.requeued, "lost": found.lost})
        if found.next_ms >= 0:
            # A score in whole milliseconds is due when that millisecond is over.
            pause_s = max(REAP_PAUSE_S, (found.next_ms + 1) / 1000)
            self._reap_at_s = asyncio.get_running_loop().time() + pause_s

    def _register_again(self) -> None:
        """Register once more: Redis was emptied, or lost its last second in a crash."""
        self.connection.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]

    # The end.

    async def _drain(self) -> None:
        dispatcher = self._dispatcher
        log.info(
            "worker draining", extra={"worker": self.name, "running": dispatcher.running, "drain_s": self._drain_s}
        )
        dispatcher.drain()
        idle = asyncio.create_task(dispatcher.idle.wait())
        stop_at_once = asyncio.create_task(self._stop_at_once.wait())
        await asyncio.wait({idle, stop_at_once}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (idle, stop_at_once):
            task.cancel()
        given_back = dispatcher.give_back()
        if given_back:
            log.warning("jobs given back", extra={"worker": self.name, "jobs": given_back})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_LIMIT_S):
                await dispatcher.idle.wait()

    async def _deregister(self) -> None:
        try:
            await self._in_thread(self.register_death)
        except QueueUnavailable as error:
            # The registration expires by itself.
            log.warning("could not deregister", extra={"worker": self.name, "error": error.message})
        log.info("worker stopped", extra={"worker": self.name, "lease_s": LEASE_S})
