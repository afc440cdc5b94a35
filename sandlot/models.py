"""The values that cross Sandlot: what goes in, what comes out, and how it went.

Knows: names, limits, outcomes. Does not know: HTTP, Redis, processes.
Hot values are msgspec structs (built once per invocation, never re-validated); what people write is in `sandlot.functions.manifest`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

FUNCTION_NAME: Final = re.compile(r"^[a-z][a-z0-9-]{0,62}$")
LATEST: Final = "$LATEST"


class Runtime(StrEnum):
    PYTHON = "python"
    NODE = "node"


class Isolation(StrEnum):
    """How much of a process one invocation shares with the next of the same version."""

    REUSE = "reuse"
    FORK = "fork"
    SANDBOX = "sandbox"


class OutcomeKind(StrEnum):
    """How an invocation ended. Everything but `OK` says whose limit or whose fault it was."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CPU = "cpu"
    PROCESSES = "processes"
    OUTPUT = "output"
    EXIT = "exit"
    SIGNAL = "signal"
    BAD_RESULT = "bad_result"
    IMPORT_ERROR = "import_error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    WORKER_LOST = "worker_lost"


CRASHES: Final = frozenset({OutcomeKind.MEMORY, OutcomeKind.PROCESSES, OutcomeKind.EXIT, OutcomeKind.SIGNAL})
"""Ends that cost a sandbox and blame nobody but the function: those that its breaker counts. An exception is an answer; a time limit
may be a slow neighbour's fault; a lost worker is ours."""


class JobStatus(StrEnum):
    """What a caller sees of a job. The first three can still change; the others never do."""

    QUEUED = "queued"
    RUNNING = "running"
    SCHEDULED = "scheduled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"

    @property
    def final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SCHEDULED)


_STATUS_OF: Final = {
    OutcomeKind.OK: JobStatus.SUCCEEDED,
    OutcomeKind.ERROR: JobStatus.FAILED,
    OutcomeKind.EXIT: JobStatus.FAILED,
    OutcomeKind.BAD_RESULT: JobStatus.FAILED,
    OutcomeKind.IMPORT_ERROR: JobStatus.FAILED,
    OutcomeKind.TIMEOUT: JobStatus.TIMED_OUT,
    OutcomeKind.MEMORY: JobStatus.KILLED,
    OutcomeKind.CPU: JobStatus.KILLED,
    OutcomeKind.PROCESSES: JobStatus.KILLED,
    OutcomeKind.OUTPUT: JobStatus.KILLED,
    OutcomeKind.SIGNAL: JobStatus.KILLED,
    OutcomeKind.CANCELLED: JobStatus.CANCELLED,
    OutcomeKind.EXPIRED: JobStatus.EXPIRED,
    OutcomeKind.WORKER_LOST: JobStatus.LOST,
}


def status_of(outcome: OutcomeKind) -> JobStatus:
    """The status of a job that ended in this outcome; every outcome has exactly one."""
    return _STATUS_OF[outcome]


class FunctionError(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a function raised, in Lambda's words: `errorType`, `errorMessage`, `stackTrace` (user frames, outermost first)."""

    error_type: str
    error_message: str
    stack_trace: list[str] = []


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured, by the worker's clock and the kernel, never by the function.

    `limit` and `measured` name the wall that was hit in its own unit (`{"wall_s": 5}` and `{"wall_s": 5.004}`);
    `stack` is where the code was at the moment of a kill, innermost last, if the runtime could tell.
    """

    limit: dict[str, float] = {}
    measured: dict[str, float] = {}
    signal: str | None = None
    exit_code: int | None = None
    peak_memory_bytes: int | None = None
    cpu_ms: float | None = None
    stack: list[str] = []
    detail: str | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True, rename={"import_": "import"}):
    """Milliseconds spent in each stage; durations come from monotonic clocks, `queued` and `settle` from Redis's clock."""

    queued: float = 0.0
    boot: float = 0.0
    import_: float = 0.0
    run: float = 0.0
    settle: float = 0.0
    total: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended.

    `result` is the JSON text the function returned (only with `OK`); it is never decoded between the sandbox and the caller.
    `receipt` is the JSON text of the walls that held (see `worker.sandbox`); `logs` is at most the function's log limit.
    """

    kind: OutcomeKind
    result: bytes = b""
    error: FunctionError | None = None
    evidence: Evidence | None = None
    timings: Timings = Timings()
    receipt: bytes = b"{}"
    logs: bytes = b""
    cold: bool = False


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """After which ends a job is run again, how often and when. `attempts` counts the first run as well."""

    attempts: int = 3
    on: tuple[OutcomeKind, ...] = (OutcomeKind.WORKER_LOST,)
    backoff_ms: int = 1000
    """Before the second run; doubled before each further one, and half of it by chance."""
    max_age_ms: int = 0
    """Counted from the moment it was queued, or due; later than this it is not run again. 0: however old it is."""

    @property
    def attempts_if_lost(self) -> int:
        """How often a job runs whose workers die."""
        return self.attempts if OutcomeKind.WORKER_LOST in self.on else 1


DEFAULT_RETRY: Final = RetryPolicy()
"""What is promised of every job: a lost worker is not its function's fault."""


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one version with one event, ready to be queued.

    `event` is valid JSON text (at most the payload limit, at most 200 levels deep), checked by whoever built this.
    `placement` names the workers that can run it (`python`, `node`, or `python,gpu` with tags).
    """

    job_id: str
    function: str
    version: int
    digest: str
    placement: str
    event: bytes
    wall_limit_ms: int
    result_ttl_s: int
    delivered_ttl_s: int = 0
    """How long a success is kept whose caller has waited and was answered; 0: as long as any other."""
    retry: RetryPolicy = DEFAULT_RETRY
    concurrency: int = 0
    delay_ms: int = 0
    not_after_ms: int = 0
    idempotency_key: str = ""
    traceparent: str = ""
    owner: str = ""
    request: bytes = b""
    """JSON object of what else the function may see in `context` (client context, for one); empty for none."""
    callback_url: str = ""
    """Is told of the end; empty for none."""
    cancel_on_disconnect: bool = False
    """Whether it is cancelled when its caller hangs up while waiting."""


def describe(kind: OutcomeKind, error: FunctionError | None, evidence: Evidence | None) -> str:
    """What the function raised, else what ended it, with the limit."""
    if error is not None:
        return f"{error.error_type}: {error.error_message}"
    limits = evidence.limit if evidence is not None else {}
    limit = ", ".join(f"{name}={value:g}" for name, value in limits.items())
    return _DETAILS.get(kind, f"the function ended as {kind}") + (f" (limit: {limit})" if limit else "")


_DETAILS = {
    OutcomeKind.TIMEOUT: "the function ran longer than its time limit and was killed",
    OutcomeKind.MEMORY: "the function used more memory than its limit and was killed",
    OutcomeKind.CPU: "the function used more CPU than its limit and was killed",
    OutcomeKind.PROCESSES: "the function started more processes than its limit and was killed",
    OutcomeKind.OUTPUT: "the function wrote more than its limit and was killed",
    OutcomeKind.EXIT: "the function ended its process instead of returning",
    OutcomeKind.SIGNAL: "the function's process was killed by a signal",
    OutcomeKind.BAD_RESULT: "the function returned something that is not JSON",
    OutcomeKind.CANCELLED: "the job was cancelled",
    OutcomeKind.EXPIRED: "the job was not started in the time it was given, and was not run",
    OutcomeKind.WORKER_LOST: "every worker that ran the function was lost before it ended",
}
