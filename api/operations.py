"""Every operation of the API as its documentation shows it: words, parameters, examples.

Knows: what callers read in /openapi.json and /docs. Does not know: how anything is done. A test holds this table and the routes together.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

Json = Any

_JOB_ID: Final = "5b0c8f2e-3c1d-4c43-9a51-6a0c5d6b7e88"
_LINKS: Final = {
    "self": f"/v1/jobs/{_JOB_ID}",
    "result": f"/v1/jobs/{_JOB_ID}/result",
    "logs": f"/v1/jobs/{_JOB_ID}/logs",
}
_DIGEST: Final = "9f2c" + "0" * 60
_TIMINGS: Final = {"queued": 0.4, "boot": 0.0, "import": 0.0, "run": 1.2, "settle": 0.3, "total": 1.9}
_FUNCTION: Final = {
    "name": "hello",
    "version": 3,
    "digest": _DIGEST,
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
_QUEUED: Final = {
    "id": _JOB_ID,
    "function": "hello",
    "version": 3,
    "digest": _DIGEST,
    "status": "queued",
    "attempt": 0,
    "links": _LINKS,
}
_SUCCEEDED: Final = {
    "id": _JOB_ID,
    "function": "hello",
    "version": 3,
    "digest": _DIGEST,
    "status": "succeeded",
    "attempt": 1,
    "created_at": "2026-11-23T10:00:00.000Z",
    "started_at": "2026-11-23T10:00:00.001Z",
    "ended_at": "2026-11-23T10:00:00.003Z",
    "outcome": "ok",
    "result": {"message": "Hello, Ada!"},
    "timings": _TIMINGS,
    "links": _LINKS,
}


def _problem(code: str, status: int, title: str, detail: str, **members: Json) -> Json:
    return {
        "type": f"urn:sandlot:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    } | members


class Answer(msgspec.Struct, frozen=True):
    """One reply: `example` is JSON, or text for `text/plain`; `None` for no body."""

    status: int
    description: str
    example: Json = None
    media_type: str = "application/json"


class Parameter(msgspec.Struct, frozen=True):
    name: str
    where: str
    description: str
    example: Json = None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    """`ANY` for a route that takes every method."""
    path: str
    tag: str
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Json = None
    """An example of the request's body; `None` for a route without one."""
    answers: tuple[Answer, ...]
    curl: str


_NAME: Final = Parameter("name", "path", "a function's name", "hello")
_JOB: Final = Parameter("job_id", "path", "a job's id, from X-Job-Id or Location", _JOB_ID)
_VERSION: Final = Parameter("version", "query", "a version's number; the latest without it", "3")
_WAIT: Final = Parameter("wait", "query", "seconds to wait, as Prefer: wait=N says it", "5")
_PREFER: Final = Parameter(
    "Prefer", "header", "respond-async, wait=N, handling=strict (RFC 7240)", "respond-async, wait=5"
)
_CALL_HEADERS: Final = (
    _PREFER,
    Parameter(
        "Idempotency-Key", "header", "the same key and payload are the same job, whenever they come", '"8e03978e-40d5"'
    ),
    Parameter("X-Sandlot-Delay", "header", "do not start before", "30s"),
    Parameter("X-Sandlot-Expires", "header", "do not start after; the job is then expired", "60s"),
    Parameter(
        "X-Sandlot-On-Disconnect",
        "header",
        "what hanging up does to a job one waits for: detach (default) or cancel",
        "cancel",
    ),
    Parameter(
        "traceparent",
        "header",
        "handed to the function (W3C Trace Context)",
        "00-" + "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
)


def _not_ok(status: int, description: str, code: str, title: str, detail: str, **members: Json) -> Answer:
    return Answer(status, description, _problem(code, status, title, detail, **members), "application/problem+json")


_NO_KEY: Final = _not_ok(401, "no valid key", "unauthenticated", "A valid API key is needed", "this needs an API key")
_NO_SCOPE: Final = _not_ok(
    403, "the key does not cover this", "forbidden", "The API key does not cover this", "this needs the scope deploy"
)
_NO_FUNCTION: Final = _not_ok(
    404, "no such function", "function_not_found", "No such function", "no function 'helo' is deployed"
)
_NO_JOB: Final = _not_ok(
    404,
    "no such job, or not yours",
    "job_not_found",
    "No such job",
    "no job '5b0c…': it never was, its retention is over, or it is not yours",
)
_TRY_AGAIN: Final = _not_ok(
    503,
    "try again: Redis, or a worker, is away",
    "no_worker",
    "No worker can run this function",
    "no live worker can run python",
    retry_after_s=1,
)
_CALL_ANSWERS: Final = (
    Answer(202, "accepted and not over: ask at Location", _QUEUED),
    _not_ok(
        400,
        "the event is not JSON, or a header means nothing",
        "invalid_json",
        "The body is not acceptable JSON",
        "the body, which is the event, is not JSON",
    ),
    _NO_KEY,
    _NO_SCOPE,
    _NO_FUNCTION,
    _not_ok(
        409,
        "the job was cancelled meanwhile",
        "job_cancelled",
        "The job was cancelled",
        "the job was cancelled",
        outcome="cancelled",
    ),
    _not_ok(
        410,
        "the job of this idempotency key is no longer kept",
        "job_gone",
        "The job's retention is over",
        "its result is no longer kept",
    ),
    _not_ok(
        413,
        "the body is too large",
        "payload_too_large",
        "The body is too large",
        "the body is larger than 6291456 bytes",
        limit_bytes=6291456,
    ),
    _not_ok(
        422,
        "the idempotency key had another payload",
        "idempotency_conflict",
        "The idempotency key was used with another payload",
        "use another key",
    ),
    _not_ok(
        429,
        "the queue is full",
        "queue_full",
        "The queue is full",
        "100000 jobs of 'hello' are queued",
        retry_after_s=3,
    ),
    _not_ok(
        502,
        "the function failed, or was killed at a limit",
        "function_error",
        "The function failed",
        "ValueError: no name",
        outcome="error",
        error={
            "errorType": "ValueError",
            "errorMessage": "no name",
            "stackTrace": ['  File "hello.py", line 3, in handler'],
        },
        job={"id": _JOB_ID, "function": "hello", "version": 3, "status": "failed", "attempt": 1, "links": _LINKS},
    ),
    _TRY_AGAIN,
    _not_ok(
        504,
        "the function passed its limit (function_timeout), or the wait is over and it runs on (wait_timeout)",
        "wait_timeout",
        "The wait is over, the function is not",
        "the function has not ended after 5 s of waiting; the job goes on",
        job={"id": _JOB_ID, "links": {"self": _LINKS["self"]}},
    ),
)
_GATEWAY: Final = (
    "The function gets the request as Lambda's function-URL event (payload format 2.0) and answers with "
    '`{"statusCode", "headers", "body", "cookies", "isBase64Encoded"}`; any other JSON is the body of a 200. '
    "What an invoke takes in headers works here as well; the query is the function's own."
)

OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/functions/{name}/invoke",
        tag="invoke",
        summary="Call a function",
        description="The body is the event: any JSON value, null if it is empty. The answer is what the function returned, as it wrote it.",
        parameters=(
            _NAME,
            _VERSION,
            _WAIT,
            Parameter("async", "query", "true: as Prefer: respond-async", "true"),
            *_CALL_HEADERS,
        ),
        body={"name": "Ada"},
        answers=(Answer(200, "what the function returned", {"message": "Hello, Ada!"}), *_CALL_ANSWERS),
        curl="""curl localhost:8000/v1/functions/hello/invoke -d '{"name": "Ada"}'""",
    ),
    Operation(
        method="ANY",
        path="/fn/{name}",
        tag="gateway",
        summary="A function behind a URL",
        description=_GATEWAY,
        parameters=(_NAME, *_CALL_HEADERS),
        answers=(Answer(200, "the function's own response", {"message": "Hello, Ada!"}), *_CALL_ANSWERS),
        curl="curl 'localhost:8000/fn/hello?name=Ada'",
    ),
    Operation(
        method="ANY",
        path="/fn/{name}/{path}",
        tag="gateway",
        summary="A function behind a URL, below a path",
        description=_GATEWAY,
        parameters=(_NAME, Parameter("path", "path", "the function's to read, in rawPath", "orders/7"), *_CALL_HEADERS),
        answers=(Answer(200, "the function's own response", {"message": "Hello, Ada!"}), *_CALL_ANSWERS),
        curl="curl localhost:8000/fn/hello/orders/7",
    ),
    Operation(
        method="ANY",
        path="/{name}",
        tag="gateway",
        summary="The short form of /fn/{name}",
        description="What no other route takes is a function's name. " + _GATEWAY,
        parameters=(_NAME, *_CALL_HEADERS),
        answers=(Answer(200, "the function's own response", {"message": "Hello, Ada!"}), *_CALL_ANSWERS),
        curl="curl 'localhost:8000/hello?name=Ada'",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}",
        tag="jobs",
        summary="How a job stands",
        description="With a wait: answers as soon as the job is over, after the wait at the latest.",
        parameters=(_JOB, _WAIT, _PREFER),
        answers=(Answer(200, "the job", _SUCCEEDED), _NO_KEY, _NO_JOB, _TRY_AGAIN),
        curl=f"curl -H 'Prefer: wait=5' localhost:8000/v1/jobs/{_JOB_ID}",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}/result",
        tag="jobs",
        summary="What the function returned",
        parameters=(_JOB,),
        answers=(
            Answer(200, "the value alone", {"message": "Hello, Ada!"}),
            Answer(202, "not over yet", _QUEUED),
            _NO_KEY,
            _NO_JOB,
            _not_ok(
                409,
                "it ended without a result",
                "no_result",
                "The job ended without a result",
                "the job ended as timeout and has no result",
                outcome="timeout",
            ),
            _not_ok(
                410,
                "the result is no longer kept",
                "job_gone",
                "The job's retention is over",
                "the result is no longer kept",
            ),
            _TRY_AGAIN,
        ),
        curl=f"curl localhost:8000/v1/jobs/{_JOB_ID}/result",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}/logs",
        tag="jobs",
        summary="What the function printed",
        parameters=(_JOB,),
        answers=(
            Answer(200, "stdout and stderr, up to the log limit", "greeting Ada\n", "text/plain"),
            _NO_KEY,
            _NO_JOB,
            _TRY_AGAIN,
        ),
        curl=f"curl localhost:8000/v1/jobs/{_JOB_ID}/logs",
    ),
    Operation(
        method="DELETE",
        path="/v1/jobs/{job_id}",
        tag="jobs",
        summary="Cancel a job",
        description="A queued job never runs, a running one is killed within a second.",
        parameters=(_JOB,),
        answers=(
            Answer(202, "it is, or will be, cancelled", _QUEUED | {"status": "cancelled"}),
            _NO_KEY,
            _NO_JOB,
            _not_ok(409, "it is over", "job_final", "The job has ended", "the job has succeeded"),
            _TRY_AGAIN,
        ),
        curl=f"curl -X DELETE localhost:8000/v1/jobs/{_JOB_ID}",
    ),
    Operation(
        method="GET",
        path="/v1/functions",
        tag="functions",
        summary="What is deployed",
        parameters=(
            Parameter("limit", "query", "how many, at most 1000", 100),
            Parameter("cursor", "query", "`next` of the page before", "hello"),
        ),
        answers=(
            Answer(200, "functions by name", {"functions": [_FUNCTION], "next": None}),
            _NO_KEY,
            _NO_SCOPE,
            _TRY_AGAIN,
        ),
        curl='curl -H "Authorization: Bearer $(cat .sandlot/key)" localhost:8000/v1/functions',
    ),
    Operation(
        method="GET",
        path="/v1/functions/{name}",
        tag="functions",
        summary="One function",
        parameters=(_NAME, _VERSION),
        answers=(
            Answer(
                200,
                "a version, and the numbers of all",
                _FUNCTION | {"latest": 3, "versions": [{"version": 3, "digest": _DIGEST}]},
            ),
            _NO_KEY,
            _NO_SCOPE,
            _NO_FUNCTION,
            _TRY_AGAIN,
        ),
        curl='curl -H "Authorization: Bearer $(cat .sandlot/key)" localhost:8000/v1/functions/hello',
    ),
    Operation(
        method="PUT",
        path="/v1/functions/{name}",
        tag="functions",
        summary="Deploy a version",
        description="JSON with the text of one file, or a folder as `application/zip`. What was deployed before is the same version again.",
        parameters=(_NAME,),
        body={
            "source": "def handler(event, context):\n    return {'message': f\"Hello, {event['name']}!\"}\n",
            "filename": "hello.py",
            "manifest": {"timeout": "5s"},
        },
        answers=(
            Answer(201, "the function's first version", _FUNCTION | {"version": 1, "changed": True}),
            Answer(200, "another version, or the same again", _FUNCTION | {"changed": True}),
            _not_ok(
                400, "not a deploy", "bad_request", "The request cannot be honoured as it is", "source: Field required"
            ),
            _NO_KEY,
            _NO_SCOPE,
            _not_ok(
                409,
                "others deploy it at the same time",
                "version_conflict",
                "Somebody else deployed in between",
                "try again",
            ),
            _not_ok(
                413, "too large", "payload_too_large", "The body is too large", "the body is larger than 50331648 bytes"
            ),
            _not_ok(
                415,
                "neither JSON nor zip",
                "unsupported_media_type",
                "The body is of a type that is not read here",
                "a deploy is application/json or application/zip",
            ),
            _not_ok(
                422,
                "it cannot be a function",
                "invalid_manifest",
                "That cannot be a function",
                "hello.py:3: invalid syntax",
            ),
            _TRY_AGAIN,
        ),
        curl="""jq -Rs '{source: ., filename: "hello.py"}' hello.py | curl -X PUT -H "Authorization: Bearer $(cat .sandlot/key)" -H 'Content-Type: application/json' -d @- localhost:8000/v1/functions/hello""",
    ),
    Operation(
        method="DELETE",
        path="/v1/functions/{name}",
        tag="functions",
        summary="Remove a function",
        parameters=(_NAME,),
        answers=(Answer(204, "removed, with all its versions"), _NO_KEY, _NO_SCOPE, _NO_FUNCTION, _TRY_AGAIN),
        curl='curl -X DELETE -H "Authorization: Bearer $(cat .sandlot/key)" localhost:8000/v1/functions/hello',
    ),
    Operation(
        method="GET",
        path="/healthz",
        tag="health",
        summary="Is this process alive?",
        answers=(Answer(200, "it is", {"status": "alive"}),),
        curl="curl localhost:8000/healthz",
    ),
    Operation(
        method="GET",
        path="/readyz",
        tag="health",
        summary="Would an invocation be run?",
        answers=(
            Answer(
                200,
                "Redis answers and a worker lives",
                {"status": "ready", "workers": {"python": 1, "node": 1}, "queued": 0, "running": 0},
            ),
            _TRY_AGAIN,
        ),
        curl="curl localhost:8000/readyz",
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        tag="documentation",
        summary="This description, for machines",
        answers=(Answer(200, "OpenAPI 3.1", {"openapi": "3.1.0"}),),
        curl="curl localhost:8000/openapi.json",
    ),
    Operation(
        method="GET",
        path="/docs",
        tag="documentation",
        summary="This description, for people",
        answers=(Answer(200, "a page", "<!doctype html>", "text/html"),),
        curl="curl localhost:8000/docs",
    ),
)
