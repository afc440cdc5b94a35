"""What makes the engine a worker in RQ's eyes, and what of RQ it refuses to be.

Knows: rq.worker.BaseWorker (3.0): birth, death, registration. Does not know: steps, executions.
RQ's loop, its pub/sub commands, its scheduler and `perform` obey what Redis says: names to import, callbacks, webhooks, shutdowns. None of
them is reachable here.
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

REGISTRATION_TTL_S: Final = 60
"""How long RQ's tools show a worker that died without a word. It beats every second."""


def worker_name() -> str:
    """Unique, since a name must not be taken by one that was killed a moment ago; with host and pid, for whoever looks."""
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"


class Registration(BaseWorker):
    """An `rq.worker.BaseWorker` whose registration is RQ's and whose work is not."""

    def __init__(self, connection: redis.Redis, name: str, placements: Sequence[str]) -> None:
        # Queues come and go with functions; a worker serves all of its placements. `*@python` says so to whoever reads `rq info`.
        # RQ separates names by commas, so a tag is shown behind a plus.
        queues = [f"*@{placement.replace(',', '+')}" for placement in placements]
        super().__init__(
            queues, name=name, connection=connection, serializer=JSONSerializer, worker_ttl=REGISTRATION_TTL_S
        )

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """RQ would raise the socket's timeout to minutes, for its blocking pops; nothing blocks here."""
        return connection

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("a Sandlot worker does not run RQ's own loop; use Engine.run")

    work = bootstrap = subscribe = handle_payload = _refuse
    execute_job = perform_job = main_work_horse = prepare_execution = prepare_job_execution = _refuse
    dequeue_job_and_maintain_ttl = maintain_heartbeats = clean_registries = run_maintenance_tasks = _refuse
    handle_job_success = handle_job_failure = handle_job_retry = handle_exception = _start_scheduler = _refuse
    _install_signal_handlers = request_stop = request_force_stop = _refuse


log = logging.getLogger(__name__)

BEAT_S: Final = 1.0
"""Four beats fit into a lease, so that three may be lost."""
CONTACT_BEFORE_REAPING_S: Final = 2.0
"""After an outage of Redis every lease has run out, although every worker lives: each gets two beats to say so before anybody reaps."""
REAP_PAUSE_S: Final = 0.1
"""Between beats a worker reaps again at the moment when something runs out, not a second later; but not more often than this."""
LAST_WORDS_S: Final = 5.0
"""At the end of a drain, how long finished work may still wait to be recorded when Redis is away."""


class Engine(Registration):
    """An RQ worker. `run` it once."""

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
            connection: blocking, for RQ's own registration; used at birth and death only, in a thread.
            drain_s: after the first SIGTERM or SIGINT, how long what runs may go on.
            scaling: decides how many slots there are; without it, always those of the pool.
        """
        super().__init__(connection, queue.name, queue.placements)
        self._queue = queue
        self._counts = counts
        self._scaling = scaling
        self._reported = 0
        self._steps = Dispatcher(queue, pool, counts)
        self._following = LogStream(queue, pool.printed, self._steps.attempt)
        self._drain_s = drain_s
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._contact_since_s: float | None = None
        self._reap_at_s = math.inf

    def stop(self) -> None:
        """First call: finish what runs. Second: give it back at once."""
        if self._stop.is_set():
            self._hurry.set()
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
            beats = asyncio.create_task(self._beat_for_ever(), name="beats")
            try:
                await self._stop.wait()
                await self._drain()
            finally:
                beats.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beats
        finally:
            await self._following.close()
            # The handlers stay: whoever asks again while we close must not end us half-way. The loop takes them with it.
            await self._say_goodbye()

    async def _begin(self) -> None:
        await self._in_thread(self.register_birth)
        steps = self._steps
        # The beat first: a step parks slots, and only a worker that has beaten is handed jobs.
        await self._queue.heartbeat(self._pulse())
        self._queue.on_follow = self._following.watch
        await self._queue.listen(steps.handed, steps.hungry, steps.cancel, steps.subscribed)
        log.info(
            "worker started",
            extra={"worker": self.name, "placements": ",".join(self._queue.placements), "version": version("sandlot")},
        )

    async def _in_thread(self, call: object) -> None:
        """One of RQ's blocking calls.

        Raises:
            QueueUnavailable
        """
        try:
            await asyncio.to_thread(call)  # type: ignore[arg-type]
        except redis.RedisError as error:
            raise QueueUnavailable(f"Redis does not answer: {error}") from None

    # Beats.

    def _pulse(self) -> Heartbeat:
        steps, tally = self._steps, self._steps.tally
        return Heartbeat(
            state="busy" if steps.running else "idle",
            successes=tally.successes,
            failures=tally.failures,
            working_s=tally.working_s,
            registration_ttl_s=REGISTRATION_TTL_S,
            free=0 if steps.draining else steps.free,
            leases=steps.leases,
            slots=steps.slots,
            busy=steps.running,
        )

    async def _beat_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        beat_at_s = loop.time()
        while True:
            # Not drifting, and not catching up after a pause either.
            beat_at_s = max(beat_at_s + BEAT_S, loop.time())
            while self._reap_at_s < beat_at_s:
                await self._at(self._reap_at_s, self._reap)
            await self._at(beat_at_s, self._beat)

    async def _at(self, moment_s: float, act: Callable[[], Awaitable[None]]) -> None:
        """Whatever Redis says to it: contact is lost, or it is not."""
        await asyncio.sleep(moment_s - asyncio.get_running_loop().time())
        self._reap_at_s = math.inf
        try:
            await act()
        except QueueUnavailable as error:
            if self._contact_since_s is not None:
                log.warning("beat failed", extra={"error": error.message})
            self._contact_since_s = None

    async def _beat(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        steps, now_s = self._steps, asyncio.get_running_loop().time()
        known = set(steps.leases)
        beaten = await self._queue.heartbeat(self._pulse())
        # What was settled while the beat was on its way is not held any more either, and not lost.
        steps.lost([lease for lease in beaten.lost if lease in known])
        for job_id in beaten.cancels:
            steps.cancel(job_id)
        if beaten.should_step:
            steps.hungry()
        if self._scaling is not None and not steps.draining:
            self._resize(self._scaling.slots_after(steps.slots, steps.running, beaten.work_waits))
        if self._counts.outcomes != self._reported:
            self._reported = self._counts.outcomes
            self._queue.report_stats(self._counts.stats())
        if not beaten.registered:
            await self._in_thread(self._register_again)
        if self._contact_since_s is None:
            self._contact_since_s = now_s
        if now_s - self._contact_since_s >= CONTACT_BEFORE_REAPING_S:
            await self._reap()

    def _resize(self, slots: int) -> None:
        steps = self._steps
        if slots != steps.slots:
            log.info("slots", extra={"worker": self.name, "slots": slots, "before": steps.slots})
            steps.resize(slots)

    @property
    def slots(self) -> int:
        """As many as there are now."""
        return self._steps.slots

    async def _reap(self) -> None:
        """
        Raises:
            QueueUnavailable
        """
        reaped = await self._queue.reap()
        self._counts.requeued += reaped.again
        self._counts.given_up += reaped.lost
        if reaped.again or reaped.lost:
            log.warning("leases ran out", extra={"queued_again": reaped.again, "lost": reaped.lost})
        if reaped.next_ms >= 0:
            # A score of a whole millisecond is due when that millisecond is over.
            pause_s = max(REAP_PAUSE_S, (reaped.next_ms + 1) / 1000)
            self._reap_at_s = asyncio.get_running_loop().time() + pause_s

    def _register_again(self) -> None:
        """Redis has forgotten us (it was emptied, or lost its last second in a crash)."""
        self.connection.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]

    # The end.

    async def _drain(self) -> None:
        steps = self._steps
        log.info("worker draining", extra={"worker": self.name, "running": steps.running, "drain_s": self._drain_s})
        steps.drain()
        quiet = asyncio.create_task(steps.quiet.wait())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({quiet, hurry}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (quiet, hurry):
            task.cancel()
        given_back = steps.give_back()
        if given_back:
            log.warning("jobs given back", extra={"worker": self.name, "jobs": given_back})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await steps.quiet.wait()

    async def _say_goodbye(self) -> None:
        try:
            await self._in_thread(self.register_death)
        except QueueUnavailable as error:
            # The registration expires by itself.
            log.warning("could not deregister", extra={"worker": self.name, "error": error.message})
        log.info("worker stopped", extra={"worker": self.name, "lease_s": LEASE_S})
