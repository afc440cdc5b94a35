"""The API over a queue and a registry that live in this process, and a client that speaks to it without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import httpx
import pytest

from api.app import Api, create_app
from sandlot.api_keys import KeyStore, Scope
from sandlot.errors import (
    FunctionNotFound,
    IdempotencyConflict,
    JobFinal,
    JobNotFound,
    QueueUnavailable,
    SandlotError,
    VersionNotFound,
)
from sandlot.functions import Alias, Bundle, DeployResult, FunctionDetails, Manifest, Version
from sandlot.functions.version import FunctionPage
from sandlot.jobs import Follower, JobRecord, JobResult, Queue, QueueStatus, Submitted
from sandlot.jobs.dead_letters import DeadLetterPage
from sandlot.jobs.envelope import Envelope, open_envelope, seal
from sandlot.jobs.ids import new_job_id, was_issued
from sandlot.jobs.inspection import JobPage
from sandlot.jobs.notifications import ResultWaiters
from sandlot.jobs.stats import QueueLoads
from sandlot.metrics import Histogram
from sandlot.models import LATEST, FunctionError, Invocation, JobStatus, OutcomeKind, Timings, status_of
from sandlot.redis.durability import Durability
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings

SIGNING_KEY = b"k" * 32
Ending = Callable[[Invocation], JobResult | None]


def ended(invocation: Invocation, kind: OutcomeKind = OutcomeKind.OK, result: bytes = b"", **fields: Any) -> JobResult:
    return JobResult(
        job_id=invocation.job_id,
        function=invocation.function,
        version=invocation.version,
        attempt=1,
        kind=kind,
        result=result,
        timings=Timings(queued=0.5, run=1.25, total=2.0),
        **fields,
    )


def echo(invocation: Invocation) -> JobResult:
    return ended(invocation, result=invocation.event)


def never(invocation: Invocation) -> None:
    return None


@dataclass
class FakeDeadLetters:
    """Every job is one."""

    queue: FakeQueue

    async def page(self, sees: Callable[[JobRecord], bool], *, limit: int, cursor: str) -> DeadLetterPage:
        records = [await self.queue.job(job_id) for job_id in self.queue.invocations]
        return DeadLetterPage([record for record in records if record is not None and sees(record)][:limit], None)

    async def get(self, job_id: str) -> JobRecord | None:
        return await self.queue.job(job_id)

    async def unseal(self, job_id: str) -> tuple[Envelope, bytes] | None:
        known = self.queue.invocations.get(job_id)
        return known and (open_envelope(seal(b"k", known)), known.event)

    async def remove(self, job_id: str) -> bool:
        return True

    def redrive_id(self, job_id: str) -> str:
        return job_id[::-1]


@dataclass
class FakeQueue:
    """Ends each job as `ending` says, on the next turn of the loop (at once if nobody waits); `None` leaves it queued until `finish`."""

    ending: Ending = echo
    refusal: SandlotError | None = None
    invocations: dict[str, Invocation] = field(default_factory=dict)
    ends: dict[str, JobResult] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    waiters: ResultWaiters = field(default_factory=ResultWaiters)
    cancelled: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    cancelled_queues: list[str] = field(default_factory=list)
    printed: dict[str, bytes] = field(default_factory=dict)
    live: QueueStatus = field(default_factory=lambda: QueueStatus(reachable=True, workers={"python": 1}))

    load_now: QueueLoads | None = None
    round_trips: Histogram = field(default_factory=Histogram)

    large_results: Any = None

    @property
    def dead_letters(self) -> FakeDeadLetters:
        return FakeDeadLetters(self)

    closed_breakers: list[str] = field(default_factory=list)

    async def close_breaker(self, function: str) -> None:
        self.closed_breakers.append(function)

    async def load(self) -> QueueLoads:
        if self.load_now is None:
            raise QueueUnavailable("Redis does not answer")
        return self.load_now

    async def submit(self, invocation: Invocation, *, reply: bool) -> Submitted:
        if self.refusal is not None:
            raise self.refusal
        known = self.keys.get((invocation.owner, invocation.idempotency_key)) if invocation.idempotency_key else None
        if known is not None:
            if self.invocations[known].event != invocation.event:
                raise IdempotencyConflict("used before")
            return Submitted(known, True, self.status_of(known))
        self.invocations[invocation.job_id] = invocation
        self.keys[invocation.owner, invocation.idempotency_key] = invocation.job_id
        end = self.ending(invocation)
        if end is not None and not reply:
            self.finish(end)
        elif end is not None:
            asyncio.get_running_loop().call_soon(self.finish, end)
        return Submitted(invocation.job_id, False, JobStatus.QUEUED)

    def finish(self, end: JobResult) -> None:
        self.ends[end.job_id] = end
        self.waiters.resolve(end.job_id, end)

    def status_of(self, job_id: str) -> JobStatus:
        return status_of(self.ends[job_id].kind) if job_id in self.ends else JobStatus.QUEUED

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # The queue's own waiting, over this fake's submit, job, settled, keep_result, add_waiter and cancel.
    call = Queue.call
    long_poll = Queue.long_poll
    _end_wait_early = Queue._end_wait_early
    _kept_result = Queue._kept_result

    async def job(self, job_id: str) -> JobRecord | None:
        invocation, end = self.invocations.get(job_id), self.ends.get(job_id)
        if invocation is None:
            return None
        return JobRecord(
            id=job_id,
            function=invocation.function,
            version=invocation.version,
            digest=invocation.digest,
            status=self.status_of(job_id),
            attempt=1 if end else 0,
            created_ms=1_795_406_400_000,
            ended_ms=1_795_406_400_100 if end else None,
            kind=end.kind if end else None,
            error=end.error if end else None,
            timings=end.timings if end else Timings(),
            owner=invocation.owner,
            result_bytes=len(end.result) if end else 0,
            result_sha256=hashlib.sha256(end.result).hexdigest() if end else "",
        )

    def new_job_id(self, owner: str) -> str:
        return new_job_id(SIGNING_KEY, owner)

    def was_issued(self, owner: str, job_id: str) -> bool:
        return was_issued(SIGNING_KEY, owner, job_id)

    async def submit_batch(
        self, invocations: Sequence[Invocation], idempotency_key: str, fingerprint: str
    ) -> list[str]:
        return [(await self.submit(invocation, reply=False)).job_id for invocation in invocations]

    async def list_jobs(self, wanted: Any, *, function: str, limit: int, cursor: str) -> JobPage:
        records = [await self.job(job_id) for job_id in sorted(self.invocations, reverse=True)]
        seen = [record for record in records if record and function in ("", record.function) and wanted(record)]
        return JobPage(tuple(seen[:limit]), seen[limit - 1].id if len(seen) > limit else "")

    @contextlib.contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        """A job that has not ended is gone at the second look, so that its stream ends."""
        follower, end = Follower(), self.ends.get(job_id)
        if end is None:
            follower.update((b"queued", b"", 0) if job_id in self.invocations else None)
            asyncio.get_running_loop().call_later(0.01, follower.update, None)
        else:
            follower.update((b"finished", end.kind.encode(), 1))
        yield follower

    async def read_logs(self, job_id: str, attempt: int | None, from_byte: int) -> bytes:
        return self.printed.get(job_id, b"")[from_byte:]

    async def result(self, job_id: str) -> JobResult | None:
        return self.ends.get(job_id)

    async def keep_result(self, job_id: str) -> None:
        self.kept.append(job_id)

    async def add_waiter(self, job_id: str) -> bool:
        return job_id in self.invocations and job_id not in self.ends

    async def event(self, job_id: str) -> bytes | None:
        return self.invocations[job_id].event if job_id in self.invocations else None

    async def logs(self, job_id: str) -> bytes | None:
        return self.printed.get(job_id)

    async def cancel(self, job_id: str) -> JobRecord:
        if job_id in self.ends:
            raise JobFinal(f"job {job_id} has ended and cannot be cancelled")
        self.cancelled.append(job_id)
        if job_id in self.invocations:
            self.finish(ended(self.invocations[job_id], OutcomeKind.CANCELLED))
        record = await self.job(job_id)
        if record is None:
            raise JobNotFound(f"no job has the id {job_id}")
        return record

    async def cancel_queued(self, function: str) -> int:
        self.cancelled_queues.append(function)
        return 0

    async def status(self) -> QueueStatus:
        return self.live


@dataclass
class FakeWatch:
    held: Durability = Durability.EVERYSEC


@dataclass
class FakeRegistry:
    versions: dict[str, list[Version]] = field(default_factory=dict)

    def add(self, name: str, **manifest: Any) -> Version:
        number = len(self.versions.get(name, [])) + 1
        written = Manifest.model_validate(
            {"runtime": "python", "handler": f"{name.replace('-', '_')}.handler", **manifest}
        )
        version = Version(
            function=name,
            number=number,
            digest=f"{number:064x}",
            manifest=written,
            placement="python",
            created_ms=1_795_406_400_000,
        )
        self.versions.setdefault(name, []).append(version)
        return version

    async def resolve(self, name: str, qualifier: str = LATEST, key: str = "") -> Version:
        if name not in self.versions:
            raise FunctionNotFound(f"no function {name[:80]!r} is deployed")
        if qualifier == LATEST:
            return self.versions[name][-1]
        for version in self.versions[name]:
            if str(version.number) == qualifier:
                return version
        raise VersionNotFound(f"{name!r} has no version {qualifier!r}")

    async def describe(self, name: str) -> FunctionDetails:
        return FunctionDetails(latest=await self.resolve(name), versions=tuple(reversed(self.versions[name])))

    async def list(self, limit: int = 100, cursor: str = "") -> FunctionPage:
        names = sorted(name for name in self.versions if name > cursor)
        more = names[limit - 1] if len(names) > limit else None
        return FunctionPage(functions=tuple([self.versions[name][-1] for name in names[:limit]]), next=more)

    async def deploy(
        self, name: str, bundle: Bundle, manifest: Manifest, *, revision: str = "", owner: str = ""
    ) -> DeployResult:
        created = name not in self.versions
        return DeployResult(
            version=self.add(name, **manifest.model_dump(exclude={"runtime", "handler"})), created=created, changed=True
        )

    async def bundle(self, digest: str) -> Bundle:
        return Bundle({"main.py": b"def handler(event, context): return 1"})

    async def move_alias(self, name: str, alias: str, target: Alias, *, revision: str = "") -> str:
        await self.resolve(name, str(target.version))
        return "2"

    async def remove_alias(self, name: str, alias: str, *, revision: str = "") -> str:
        raise VersionNotFound(f"{name!r} has no alias {alias!r}")

    async def delete(self, name: str, *, revision: str = "") -> None:
        await self.resolve(name)
        del self.versions[name]


@pytest.fixture
async def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def registry() -> FakeRegistry:
    """`hello` is public, `secret` is not."""
    registry = FakeRegistry()
    registry.add("hello", visibility="public")
    registry.add("hello", visibility="public")
    registry.add("secret")
    return registry


@pytest.fixture
def settings() -> Settings:
    return Settings(payload_limit_bytes=2048, wait_cap_s=20, callback_hosts="hooks.example.com", _env_file=None)  # type: ignore[call-arg]


@pytest.fixture
async def keys() -> AsyncIterator[KeyStore]:
    async with fakeredis.FakeAsyncRedis() as redis:
        yield KeyStore(redis, b"k" * 32)


@pytest.fixture
async def secrets() -> AsyncIterator[SecretStore]:
    async with fakeredis.FakeAsyncRedis() as redis:
        yield SecretStore(redis, b"k" * 32)


@pytest.fixture
def watch() -> FakeWatch:
    return FakeWatch()


@pytest.fixture
def api(
    settings: Settings, queue: FakeQueue, registry: FakeRegistry, keys: KeyStore, secrets: SecretStore, watch: FakeWatch
) -> Api:
    return create_app(settings, queue, registry, keys, secrets, watch)  # type: ignore[arg-type]


@pytest.fixture
async def anyone(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """A caller without a key."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api.asgi), base_url="http://sandlot.test") as client:
        yield client


@pytest.fixture
async def admin(api: Api, keys: KeyStore) -> AsyncIterator[httpx.AsyncClient]:
    """A caller whose key may do everything."""
    token, _ = await keys.create({Scope.ADMIN})
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api.asgi), base_url="http://sandlot.test", headers=headers
    ) as client:
        yield client


def function_error(invocation: Invocation) -> JobResult:
    error = FunctionError(error_type="ValueError", error_message="no name", stack_trace=["line 3"])
    return ended(invocation, OutcomeKind.ERROR, error=error)


@pytest.fixture
def raised() -> Ending:
    return function_error


@pytest.fixture
def hold() -> Ending:
    return never


@pytest.fixture
def end_of() -> Callable[..., JobResult]:
    return ended


@pytest.fixture
def end_as() -> Callable[..., Ending]:
    def ending_as(kind: OutcomeKind, **fields: Any) -> Ending:
        return lambda invocation: ended(invocation, kind, **fields)

    return ending_as
