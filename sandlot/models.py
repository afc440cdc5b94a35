"""Values that every part of Sandlot shares: invocations, outcomes, job statuses and retry policies.

Knows: names, limits, outcomes. Does not know: HTTP, Redis, processes. Values on the hot path are
msgspec structs, built once per invocation and never validated again. Settings that people write are
in `sandlot.functions.manifest`.
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
    """How much of a process one invocation shares with the next one of the same version."""

    REUSE = "reuse"
    FORK = "fork"
    SANDBOX = "sandbox"


class OutcomeKind(StrEnum):
    """How an invocation ended.

    Every kind but `OK` names the limit that was exceeded or the party at fault.
    """

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
"""Outcomes that cost a sandbox and that only the function can have caused; its breaker counts
these.

An exception is an ordinary reply, a time limit may be a slow neighbour's fault, and a lost worker
is the platform's.
"""


class JobStatus(StrEnum):
    """Status of a job as callers see it. The first three can still change, the others are final."""

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
    """Return the status of a job that ended with this outcome; every outcome has exactly one."""
    return _STATUS_OF[outcome]


class FunctionError(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Exception that a function raised.

    The fields have AWS Lambda's names: `errorType`, `errorMessage`, `stackTrace` (the user's
    frames, outermost first).
    """

    error_type: str
    error_message: str
    stack_trace: list[str] = []


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measurements of an attempt by the worker's clock and the kernel, never by the function.

    `limit` and `measured` name the limit that was exceeded, in its own unit (`{"wall_s": 5}` and
    `{"wall_s": 5.004}`). `stack` is the code's position at the moment of a kill, innermost frame
    last, if the runtime could report it.
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
    """Milliseconds spent in each stage.

    `queued` and `settle` come from Redis's clock, the rest from monotonic clocks.
    """

    queued: float = 0.0
    boot: float = 0.0
    import_: float = 0.0
    run: float = 0.0
    settle: float = 0.0
    total: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended.

    `result` is the JSON text that the function returned (only with `OK`); nothing between the
    sandbox and the caller decodes it. `receipt` is the JSON text of the isolation features that
    were in force (`sandlot/receipt.py`). `logs` holds at most the function's log limit.
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
    """When and how often a job runs again. `attempts` includes the first run."""

    attempts: int = 3
    on: tuple[OutcomeKind, ...] = (OutcomeKind.WORKER_LOST,)
    backoff_ms: int = 1000
    """Delay before the second run, doubled for each further run; half of it is random."""
    max_age_ms: int = 0
    """Age beyond which the job does not run again, counted from the time it was queued or became
    due. 0: no limit."""


DEFAULT_RETRY: Final = RetryPolicy()
"""Policy of a function without one: a job whose worker was lost runs again, since that is not the
function's fault."""


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one version with one event, ready to be queued.

    `event` is valid JSON text (at most the payload limit, at most 200 levels deep); the code that
    builds an invocation checks it. `placement` names the workers that can run it (`python`, `node`,
    or `python,gpu` with tags).
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
    """How long a success is kept whose caller waited and received it; 0: as long as any other
    result."""
    retry: RetryPolicy = DEFAULT_RETRY
    concurrency: int = 0
    delay_ms: int = 0
    not_after_ms: int = 0
    idempotency_key: str = ""
    traceparent: str = ""
    owner: str = ""
    request: bytes = b""
    """JSON object with what else the function sees in `context` (the client context, for example);
    empty for none."""
    callback_url: str = ""
    """URL that receives a signed POST when the job ends; empty for none."""
    cancel_on_disconnect: bool = False
    """Cancel the job when a caller who waits for it disconnects."""


_SENTENCES: Final = {
    OutcomeKind.TIMEOUT: "the function ran longer than its time limit and was killed",
    OutcomeKind.MEMORY: "the function used more memory than its limit and was killed",
    OutcomeKind.CPU: "the function used more CPU than its limit and was killed",
    OutcomeKind.PROCESSES: "the function started more processes than its limit and was killed",
    OutcomeKind.OUTPUT: "the function wrote more output than its limit and was killed",
    OutcomeKind.EXIT: "the function ended its process instead of returning",
    OutcomeKind.SIGNAL: "the function's process was killed by a signal",
    OutcomeKind.BAD_RESULT: "the function returned something that is not JSON",
    OutcomeKind.CANCELLED: "the job was cancelled",
    OutcomeKind.EXPIRED: "the job expired before it was started, and was not run",
    OutcomeKind.WORKER_LOST: "every worker that ran the function was lost before it ended",
}


def describe(kind: OutcomeKind, error: FunctionError | None, evidence: Evidence | None) -> str:
    """Return one sentence about an outcome.

    It is the function's exception if there is one, else the cause and the limit.
    """
    if error is not None:
        return f"{error.error_type}: {error.error_message}"
    limits = evidence.limit if evidence is not None else {}
    limit = ", ".join(f"{name}={value:g}" for name, value in limits.items())
    return _SENTENCES.get(kind, f"the function ended as {kind}") + (f" (limit: {limit})" if limit else "")
