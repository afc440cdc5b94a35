"""The values that the documentation shows: one function, one job.

Knows: what they look like over HTTP. Does not know: which operation shows them.
"""

from __future__ import annotations

from typing import Final

from api.operations import schemas
from api.operations.form import Header, Parameter
from api.operations.schemas import FUNCTION_NAME, QUALIFIER, SECONDS
from sandlot.redis.durability import Durability

JOB_ID: Final = "01a214f1-9968-71a8-96a5-af746b9b4987"
LINKS: Final = {
    "self": f"/v1/jobs/{JOB_ID}",
    "result": f"/v1/jobs/{JOB_ID}/result",
    "logs": f"/v1/jobs/{JOB_ID}/logs",
    "events": f"/v1/jobs/{JOB_ID}/events",
}
DIGEST: Final = "9f2c" + "0" * 60
TIMINGS: Final = {"queued": 0.4, "boot": 0.0, "import": 0.0, "run": 1.2, "settle": 0.3, "total": 1.9}
FUNCTION: Final = {
    "name": "hello",
    "version": 3,
    "digest": DIGEST,
    "state": "active",
    "manifest": {
        "runtime": "python",
        "handler": "hello.handler",
        "timeout": "5s",
        "memory": "256MiB",
        "visibility": "public",
    },
    "created_at": "2026-11-23T10:00:00.000Z",
}
QUEUED: Final = {
    "id": JOB_ID,
    "function": "hello",
    "version": 3,
    "digest": DIGEST,
    "status": "queued",
    "attempt": 0,
    "links": LINKS,
}
SUCCEEDED: Final = {
    "id": JOB_ID,
    "function": "hello",
    "version": 3,
    "digest": DIGEST,
    "status": "succeeded",
    "attempt": 1,
    "created_at": "2026-11-23T10:00:00.000Z",
    "started_at": "2026-11-23T10:00:00.001Z",
    "ended_at": "2026-11-23T10:00:00.003Z",
    "outcome": "ok",
    "result": {"message": "Hello, Ada!"},
    "timings": TIMINGS,
    "links": LINKS,
}

NAME: Final = Parameter("name", "path", "a function's name", "hello", FUNCTION_NAME)
JOB: Final = Parameter("job_id", "path", "a job's id, from X-Job-Id or Location", JOB_ID, schemas.JOB_ID)
VERSION: Final = Parameter("version", "query", "a version's number, or an alias; the latest without it", "3", QUALIFIER)
WAIT: Final = Parameter("wait", "query", "seconds to wait, as Prefer: wait=N says it", 5, SECONDS)
PREFER: Final = Parameter(
    "Prefer", "header", "respond-async, wait=N, handling=strict (RFC 7240)", "respond-async, wait=5"
)

X_JOB_ID: Final = Header("X-Job-Id", "the job", JOB_ID)
X_FUNCTION_VERSION: Final = Header("X-Function-Version", "the version that was called", "3")
X_DURABILITY: Final = Header(
    "X-Durability",
    "what holds at least of what Redis has acknowledged: on disk (`always`), on disk within a second (`everysec`), only in memory (`none`)",
    "everysec",
    tuple(Durability),
)
ACCEPTED: Final = (
    Header("Location", "where to ask for the job", LINKS["self"]),
    Header("Retry-After", "when to ask for it, in seconds", "1"),
    X_JOB_ID,
    X_FUNCTION_VERSION,
    X_DURABILITY,
)
ENDED: Final = (
    X_JOB_ID,
    X_FUNCTION_VERSION,
    Header("X-Sandlot-Outcome", "how it ended", "ok"),
    X_DURABILITY,
    Header("Server-Timing", "queued, boot, import, run, settle, total, in ms", "run;dur=1.200, total;dur=1.900"),
)
