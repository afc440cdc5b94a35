"""Calling a function, as the documentation shows it.

Knows: its words, parameters, answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.examples import (
    ACCEPTED,
    ENDED,
    JOB_ID,
    LINKS,
    NAME,
    PREFER,
    QUEUED,
    VERSION,
    WAIT,
    X_DURABILITY,
    X_FUNCTION_VERSION,
)
from api.operations.form import NO_FUNCTION, NO_KEY, NO_SCOPE, TRY_AGAIN, Operation, Parameter, ResponseDoc, not_ok
from api.operations.schemas import DURATION, FLAG, TEXT, array, record, ref

CALL_HEADERS: Final = (
    PREFER,
    Parameter(
        "Idempotency-Key",
        "header",
        "the same key and payload are the same job, whenever they come",
        '"8e03978e-40d5"',
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
    Parameter("X-Sandlot-Delay", "header", "do not start before", "30s", DURATION),
    Parameter("X-Sandlot-Expires", "header", "do not start after; the job is then expired", "60s", DURATION),
    Parameter(
        "X-Sandlot-On-Disconnect",
        "header",
        "what hanging up does to a job one waits for: detach or cancel; by default what the function's on_disconnect says",
        "cancel",
        {"type": "string", "enum": ["cancel", "detach"]},
    ),
    Parameter(
        "traceparent",
        "header",
        "handed to the function (W3C Trace Context)",
        "00-" + "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    Parameter(
        "X-Callback-Url",
        "header",
        "with Prefer: respond-async: is told of the end by a signed POST (Standard Webhooks), where the operator allows its host",
        "https://hooks.example.com/done",
    ),
)
CALL_ANSWERS: Final = (
    ResponseDoc(202, "accepted and not over: ask at Location", QUEUED, headers=ACCEPTED, schema=ref("Job")),
    not_ok(
        "the event is not JSON, or a header means nothing",
        "invalid_json",
        "the body, which is the event, is not JSON",
    ),
    NO_KEY,
    NO_SCOPE,
    NO_FUNCTION,
    not_ok(
        "the job was cancelled meanwhile",
        "job_cancelled",
        "the job was cancelled",
        outcome="cancelled",
    ),
    not_ok(
        "the job of this idempotency key is no longer kept",
        "job_gone",
        "its result is no longer kept",
    ),
    not_ok(
        "the body is too large",
        "payload_too_large",
        "the body is larger than 6291456 bytes",
        limit_bytes=6291456,
    ),
    not_ok(
        "the idempotency key had another payload",
        "idempotency_conflict",
        "use another key",
    ),
    not_ok(
        "the queue is full",
        "queue_full",
        "100000 jobs of 'hello' are queued",
        retry_after_s=3,
    ),
    not_ok(
        "the function failed, or was killed at a limit",
        "function_error",
        "ValueError: no name",
        outcome="error",
        error={
            "errorType": "ValueError",
            "errorMessage": "no name",
            "stackTrace": ['  File "hello.py", line 3, in handler'],
        },
        job={"id": JOB_ID, "function": "hello", "version": 3, "status": "failed", "attempt": 1, "links": LINKS},
    ),
    not_ok(
        "the function crashes too often and is given a rest",
        "function_crash_loop",
        "'hello' has crashed again and again, and is not started for a while",
        retry_after_s=9,
    ),
    TRY_AGAIN,
    not_ok(
        "the function passed its limit (function_timeout), or the wait is over and it runs on (wait_timeout)",
        "wait_timeout",
        "the function has not ended after 5 s of waiting; the job goes on",
        job={"id": JOB_ID, "links": {"self": LINKS["self"]}},
    ),
)
GATEWAY: Final = (
    "The function gets the request as Lambda's function-URL event (payload format 2.0) and answers with "
    '`{"statusCode", "headers", "body", "cookies", "isBase64Encoded"}`; any other JSON is the body of a 200. '
    "What an invoke takes in headers works here as well; the query is the function's own."
)

CALLS: Final = (
    Operation(
        method="POST",
        path="/v1/functions/{name}/invoke",
        tag="invoke",
        summary="Call a function",
        description="The body is the event: any JSON value, null if it is empty. The answer is what the function returned, as it wrote it.",
        parameters=(
            NAME,
            VERSION,
            WAIT,
            Parameter("async", "query", "true: as Prefer: respond-async", True, FLAG),
            *CALL_HEADERS,
        ),
        body={"name": "Ada"},
        answers=(
            ResponseDoc(200, "what the function returned", {"message": "Hello, Ada!"}, headers=ENDED),
            *CALL_ANSWERS,
        ),
        curl="""curl localhost:8000/v1/functions/hello/invoke -d '{"name": "Ada"}'""",
    ),
    Operation(
        method="POST",
        path="/v1/functions/{name}/invoke-batch",
        tag="invoke",
        summary="Call a function many times",
        description="The body is an array of 1 to 1,000 events. Each becomes a job, all of them or none; the ids are in the order of the events. "
        "An Idempotency-Key is that of the whole batch.",
        parameters=(NAME, VERSION, *CALL_HEADERS[1:4], CALL_HEADERS[5]),
        body=[{"name": "Ada"}, {"name": "Grace"}],
        body_schema={"type": "array", "minItems": 1, "maxItems": 1000},
        answers=(
            ResponseDoc(
                202,
                "all are accepted",
                {"jobs": [JOB_ID, JOB_ID[:-1] + "8"]},
                headers=(X_FUNCTION_VERSION, X_DURABILITY),
                schema=record("jobs", jobs=array(TEXT)),
            ),
            not_ok("an event is not JSON, or there are too many", "invalid_json", "event 3 of the batch is not JSON"),
            NO_KEY,
            NO_SCOPE,
            NO_FUNCTION,
            *(answer for answer in CALL_ANSWERS if answer.status in (413, 422, 429)),
            TRY_AGAIN,
        ),
        curl="""curl localhost:8000/v1/functions/hello/invoke-batch -d '[{"name": "Ada"}, {"name": "Grace"}]'""",
    ),
    Operation(
        method="ANY",
        path="/fn/{name}",
        tag="gateway",
        summary="A function behind a URL",
        description=GATEWAY,
        parameters=(NAME, *CALL_HEADERS),
        answers=(
            ResponseDoc(200, "the function's own response", {"message": "Hello, Ada!"}, headers=ENDED),
            *CALL_ANSWERS,
        ),
        curl="curl 'localhost:8000/fn/hello?name=Ada'",
    ),
    Operation(
        method="ANY",
        path="/fn/{name}/{path}",
        tag="gateway",
        summary="A function behind a URL, below a path",
        description=GATEWAY,
        parameters=(NAME, Parameter("path", "path", "the function's to read, in rawPath", "orders/7"), *CALL_HEADERS),
        answers=(
            ResponseDoc(200, "the function's own response", {"message": "Hello, Ada!"}, headers=ENDED),
            *CALL_ANSWERS,
        ),
        curl="curl localhost:8000/fn/hello/orders/7",
    ),
    Operation(
        method="ANY",
        path="/{name}",
        tag="gateway",
        summary="The short form of /fn/{name}",
        description="What no other route takes is a function's name. " + GATEWAY,
        parameters=(NAME, *CALL_HEADERS),
        answers=(
            ResponseDoc(200, "the function's own response", {"message": "Hello, Ada!"}, headers=ENDED),
            *CALL_ANSWERS,
        ),
        curl="curl 'localhost:8000/hello?name=Ada'",
    ),
)
