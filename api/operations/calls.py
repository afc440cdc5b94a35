"""The operations that call a function."""

from __future__ import annotations

from typing import Final

from api.operations.examples import (
    ACCEPTED,
    ENDED,
    FORBIDDEN,
    JOB_ID,
    LINKS,
    NAME,
    NO_FUNCTION,
    PREFER,
    QUEUED,
    TRY_AGAIN,
    UNAUTHENTICATED,
    VERSION,
    WAIT,
    X_DURABILITY,
    X_FUNCTION_VERSION,
)
from api.operations.operation import ANY_METHOD, Access, Operation, Parameter, ResponseDoc, problem_doc
from api.operations.schemas import DURATION, FLAG, TEXT, array, record, ref

IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "requests with the same key and payload are the same job, whenever they arrive",
    '"8e03978e-40d5"',
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
DELAY: Final = Parameter("X-Sandlot-Delay", "header", "start no earlier than this from now", "30s", DURATION)
EXPIRES: Final = Parameter(
    "X-Sandlot-Expires", "header", "start no later than this from now; the job then expires", "60s", DURATION
)
ON_DISCONNECT: Final = Parameter(
    "X-Sandlot-On-Disconnect",
    "header",
    "what happens to the job if the waiting caller disconnects: detach (it goes on) or cancel; default: the "
    "function's on_disconnect",
    "cancel",
    {"type": "string", "enum": ["cancel", "detach"]},
)
TRACEPARENT: Final = Parameter(
    "traceparent",
    "header",
    "passed to the function (W3C Trace Context)",
    "00-" + "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
CALLBACK_URL: Final = Parameter(
    "X-Callback-Url",
    "header",
    "with Prefer: respond-async: receives a signed POST when the job ends (Standard Webhooks), if the operator allows "
    "its host",
    "https://hooks.example.com/done",
)
CALL_HEADERS: Final = (PREFER, IDEMPOTENCY_KEY, DELAY, EXPIRES, ON_DISCONNECT, TRACEPARENT, CALLBACK_URL)
"""The call options that are headers (api/call_options.py reads them)."""

CALL_ANSWERS: Final = (
    ResponseDoc(
        202, "accepted and not over yet: ask for the job at Location", QUEUED, headers=ACCEPTED, schema=ref("Job")
    ),
    problem_doc(
        "the event is not JSON, or a header is invalid",
        "invalid_json",
        "the body, which is the event, is not JSON",
    ),
    UNAUTHENTICATED,
    FORBIDDEN,
    NO_FUNCTION,
    problem_doc(
        "the job was cancelled while the caller waited",
        "job_cancelled",
        "the job was cancelled",
        outcome="cancelled",
    ),
    problem_doc(
        "the job of this idempotency key is no longer kept",
        "job_gone",
        "its result is no longer kept",
    ),
    problem_doc(
        "the body is too large",
        "payload_too_large",
        "the body is larger than 6291456 bytes",
        limit_bytes=6291456,
    ),
    problem_doc(
        "the idempotency key was used with another payload",
        "idempotency_conflict",
        "use another key",
    ),
    problem_doc(
        "the queue is full",
        "queue_full",
        "100000 jobs of 'hello' are queued",
        retry_after_s=3,
    ),
    problem_doc(
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
    # Only /docs shows it: in OpenAPI, which has one reply per status, TRY_AGAIN replaces it.
    problem_doc(
        "the function is crash-looping and paused",
        "function_crash_loop",
        "'hello' is crash-looping and paused",
        retry_after_s=9,
    ),
    TRY_AGAIN,
    problem_doc(
        "the function exceeded its time limit (function_timeout), or the wait is over and the function runs on "
        "(wait_timeout)",
        "wait_timeout",
        "the function has not ended after 5 s of waiting; the job goes on",
        job={"id": JOB_ID, "links": {"self": LINKS["self"]}},
    ),
)
_GATEWAY_DESCRIPTION: Final = (
    "The function receives the request as a Lambda function URL event (payload format 2.0) and answers with "
    '`{"statusCode", "headers", "body", "cookies", "isBase64Encoded"}`; any other JSON value is the body of a 200. '
    "The call options of invoke work here as headers; the query belongs to the function."
)
_GATEWAY_ANSWERS: Final = (
    ResponseDoc(200, "the function's own response", {"message": "Hello, Ada!"}, headers=ENDED),
    *CALL_ANSWERS,
)

INVOKE: Final = Operation(
    method="POST",
    path="/v1/functions/{name}/invoke",
    access=Access.CALL,
    tag="invoke",
    summary="Call a function",
    description="The body is the event: any JSON value; an empty body means null. The answer is the value that the "
    "function returned, byte for byte.",
    parameters=(
        NAME,
        VERSION,
        WAIT,
        Parameter("async", "query", "true: the same as Prefer: respond-async", True, FLAG),
        *CALL_HEADERS,
    ),
    body={"name": "Ada"},
    answers=(
        ResponseDoc(200, "the value that the function returned", {"message": "Hello, Ada!"}, headers=ENDED),
        *CALL_ANSWERS,
    ),
    curl="""curl localhost:8000/v1/functions/hello/invoke -d '{"name": "Ada"}'""",
)
INVOKE_BATCH: Final = Operation(
    method="POST",
    path="/v1/functions/{name}/invoke-batch",
    access=Access.CALL,
    tag="invoke",
    summary="Call a function many times",
    description="The body is an array of 1 to 1,000 events. Each becomes a job, all of them or none; the ids are in "
    "the order of the events. An Idempotency-Key applies to the whole batch.",
    parameters=(NAME, VERSION, IDEMPOTENCY_KEY, DELAY, EXPIRES, TRACEPARENT),
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
        problem_doc(
            "an event is not JSON, or there are too many events",
            "invalid_json",
            "event 3 of the batch is not JSON",
        ),
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_FUNCTION,
        *(answer for answer in CALL_ANSWERS if answer.status in (413, 422, 429)),
        TRY_AGAIN,
    ),
    curl="""curl localhost:8000/v1/functions/hello/invoke-batch -d '[{"name": "Ada"}, {"name": "Grace"}]'""",
)
CALL_URL: Final = Operation(
    method=ANY_METHOD,
    path="/fn/{name}",
    access=Access.CALL,
    tag="gateway",
    summary="A function behind a URL",
    description=_GATEWAY_DESCRIPTION,
    parameters=(NAME, *CALL_HEADERS),
    ignores_query=True,
    answers=_GATEWAY_ANSWERS,
    curl="curl 'localhost:8000/fn/hello?name=Ada'",
)
CALL_URL_BELOW: Final = Operation(
    method=ANY_METHOD,
    path="/fn/{name}/{path:path}",
    access=Access.CALL,
    tag="gateway",
    summary="A function behind a URL, below a path",
    description=_GATEWAY_DESCRIPTION,
    parameters=(
        NAME,
        Parameter("path", "path", "passed to the function, in rawPath", "orders/7"),
        *CALL_HEADERS,
    ),
    ignores_query=True,
    answers=_GATEWAY_ANSWERS,
    curl="curl localhost:8000/fn/hello/orders/7",
)
CALL_BARE_URL: Final = Operation(
    method=ANY_METHOD,
    path="/{name}",
    access=Access.CALL,
    tag="gateway",
    summary="The short form of /fn/{name}",
    description="A path that no other route matches is a function's name. " + _GATEWAY_DESCRIPTION,
    parameters=(NAME, *CALL_HEADERS),
    ignores_query=True,
    is_fallback=True,
    answers=_GATEWAY_ANSWERS,
    curl="curl 'localhost:8000/hello?name=Ada'",
)

CALLS: Final = (INVOKE, INVOKE_BATCH, CALL_URL, CALL_URL_BELOW, CALL_BARE_URL)
