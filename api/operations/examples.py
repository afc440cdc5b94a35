"""Examples, parameters, headers and problems that several operations share."""

from __future__ import annotations

from typing import Final

from api.operations import schemas
from api.operations.operation import Header, Parameter, problem_doc
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
CURL_KEY: Final = '-H "Authorization: Bearer $(cat .sandlot/key)"'

NAME: Final = Parameter("name", "path", "the function's name", "hello", FUNCTION_NAME)
JOB: Final = Parameter("job_id", "path", "the job's id, from X-Job-Id or Location", JOB_ID, schemas.JOB_ID)
VERSION: Final = Parameter("version", "query", "a version number or an alias; default: the latest", "3", QUALIFIER)
WAIT: Final = Parameter("wait", "query", "seconds to wait; the same as Prefer: wait=N", 5, SECONDS)
PREFER: Final = Parameter(
    "Prefer", "header", "respond-async, wait=N, handling=strict (RFC 7240)", "respond-async, wait=5"
)
IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    "the function's ETag: change nothing unless the function still has it",
    '"1795406400000000"',
    {"type": "string", "pattern": '^("[^"]+"|[*])$'},
)

X_JOB_ID: Final = Header("X-Job-Id", "the job's id", JOB_ID)
X_FUNCTION_VERSION: Final = Header("X-Function-Version", "the version that was called", "3")
X_DURABILITY: Final = Header(
    "X-Durability",
    "how far a write is durable, at least, once Redis acknowledges it: on disk (`always`), on disk "
    "within a second (`everysec`), only in memory (`none`)",
    "everysec",
    tuple(Durability),
)
ACCEPTED: Final = (
    Header("Location", "the job's URL", LINKS["self"]),
    Header("Retry-After", "seconds until the job is worth asking for", "1"),
    X_JOB_ID,
    X_FUNCTION_VERSION,
    X_DURABILITY,
)
ENDED: Final = (
    X_JOB_ID,
    X_FUNCTION_VERSION,
    Header("X-Sandlot-Outcome", "how the attempt ended", "ok"),
    X_DURABILITY,
    Header("Server-Timing", "queued, boot, import, run, settle, total, in ms", "run;dur=1.200, total;dur=1.900"),
)

BAD_REQUEST: Final = problem_doc(
    "a parameter or header is invalid",
    "bad_request",
    "unknown query parameter 'stats'; there are: function, status",
)
UNAUTHENTICATED: Final = problem_doc("no valid API key", "unauthenticated", "this needs an API key")
FORBIDDEN: Final = problem_doc("the key does not cover this", "forbidden", "this needs the scope deploy")
NO_FUNCTION: Final = problem_doc("no such function", "function_not_found", "no function 'helo' is deployed")
NO_JOB: Final = problem_doc(
    "no such job, or it belongs to another owner",
    "job_not_found",
    "no job '5b0c…': it never existed, or it belongs to another owner",
)
JOB_GONE: Final = problem_doc(
    "the job existed and is no longer kept", "job_gone", "job 0192… has ended, and its retention is over"
)
NO_EVENT: Final = problem_doc("the job's event is no longer kept", "job_gone", "the event is no longer kept")
NO_VERSION: Final = problem_doc("no such function, version or alias", "version_not_found", "'hello' has no version 9")
CONFLICT: Final = problem_doc(
    "the function has another ETag than If-Match",
    "version_conflict",
    "'hello' has changed since you read it (If-Match does not match); nothing was changed. Read it again, then decide",
)
TRY_AGAIN: Final = problem_doc(
    "Redis or a worker is unavailable for now: try again",
    "no_worker",
    "no live worker can run python",
    retry_after_s=1,
)
