"""The operations on jobs."""

from __future__ import annotations

from typing import Final

from api.operations.examples import (
    ACCEPTED,
    BAD_REQUEST,
    FORBIDDEN,
    JOB,
    JOB_GONE,
    JOB_ID,
    NO_EVENT,
    NO_JOB,
    PREFER,
    QUEUED,
    SUCCEEDED,
    TRY_AGAIN,
    UNAUTHENTICATED,
    WAIT,
)
from api.operations.operation import Access, Header, Operation, Parameter, ResponseDoc, problem_doc
from api.operations.schemas import JOB_STATUS, POSITION, TEXT, cursor, limit, page, ref

_ETAG: Final = f'"{"1" * 64}"'
_IF_NONE_MATCH: Final = Parameter(
    "If-None-Match", "header", "the ETag of an earlier reply: 304 if the reply would be the same", _ETAG
)
_RANGE: Final = Parameter(
    "Range", "header", "the part of the value to send: one range of bytes; others are ignored", "bytes=0-1023"
)
_IF_RANGE: Final = Parameter(
    "If-Range", "header", "the ETag of an earlier reply: Range is ignored if the value has another one", _ETAG
)
_RESULT_ETAG: Final = Header("ETag", "the SHA-256 of the value", _ETAG)
_RESULT_HEADERS: Final = (_RESULT_ETAG, Header("Accept-Ranges", "Range is accepted", "bytes", ("bytes",)))
_ETAG_HEADER: Final = Header("ETag", "changes whenever the job does", _ETAG)
_LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID", "header", "continue after the event with this id", "running.1.512", POSITION
)
_BAD_POSITION: Final = problem_doc(
    "Last-Event-ID is not an id of this stream",
    "bad_request",
    "Last-Event-ID 'x' is not an id of this stream",
)
_ALL_SENT: Final = ResponseDoc(204, "Last-Event-ID is the last event: there is nothing more to send")

LIST_JOBS: Final = Operation(
    method="GET",
    path="/v1/jobs",
    access=Access.JOBS,
    tag="jobs",
    summary="List jobs, newest first",
    description="Lists the jobs of the key's owner, of functions that the key covers. A page may be short and still "
    "have a next one.",
    parameters=(
        Parameter("function", "query", "only jobs of this function", "hello", cursor(64)),
        Parameter(
            "status",
            "query",
            "queued, running, scheduled, succeeded, failed, timed_out, killed, cancelled, expired or lost",
            "failed",
            JOB_STATUS,
        ),
        Parameter("limit", "query", "jobs per page, 1 to 1000", 100, limit(1000)),
        Parameter("cursor", "query", "`next` of the previous page", JOB_ID, cursor(64)),
    ),
    answers=(
        ResponseDoc(200, "a page", {"jobs": [QUEUED], "next": JOB_ID}, schema=page("jobs", ref("Job"))),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        TRY_AGAIN,
    ),
    curl="curl 'localhost:8000/v1/jobs?status=failed&limit=20'",
)
GET_JOB: Final = Operation(
    method="GET",
    path="/v1/jobs/{job_id}",
    access=Access.JOB,
    tag="jobs",
    summary="Show a job",
    description="With a wait, the reply is sent as soon as the job is over, and after the wait at the latest.",
    parameters=(JOB, WAIT, PREFER, _IF_NONE_MATCH),
    answers=(
        ResponseDoc(200, "the job", SUCCEEDED, headers=(_ETAG_HEADER,), schema=ref("Job")),
        ResponseDoc(304, "the job has not changed", headers=(_ETAG_HEADER,)),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        JOB_GONE,
        TRY_AGAIN,
    ),
    curl=f"curl -H 'Prefer: wait=5' localhost:8000/v1/jobs/{JOB_ID}",
)
GET_RESULT: Final = Operation(
    method="GET",
    path="/v1/jobs/{job_id}/result",
    access=Access.JOB,
    tag="jobs",
    summary="Fetch the value that the function returned",
    description="The ETag never changes: If-None-Match answers 304, Range returns a part, HEAD the length. A value "
    "above 256 KiB is read while it is sent; if the rest cannot be read, the connection closes before Content-Length "
    "is reached.",
    parameters=(JOB, _RANGE, _IF_RANGE, _IF_NONE_MATCH),
    answers_head=True,
    answers=(
        ResponseDoc(200, "the value alone", {"message": "Hello, Ada!"}, headers=_RESULT_HEADERS),
        ResponseDoc(
            206,
            "the part that Range requests",
            "Ada!",
            "application/json",
            headers=(
                *_RESULT_HEADERS,
                Header("Content-Range", "the part and the length of the value", "bytes 19-22/25"),
            ),
        ),
        ResponseDoc(202, "the job is not over yet", QUEUED, schema=ref("Job")),
        ResponseDoc(304, "the caller has the value already", headers=(_RESULT_ETAG,)),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        problem_doc(
            "the job ended without a result",
            "no_result",
            "the job ended as timeout and has no result",
            outcome="timeout",
        ),
        JOB_GONE,
        problem_doc("the range starts after the end", "range_not_satisfiable", "the result has 25 bytes"),
        TRY_AGAIN,
    ),
    curl=f"curl localhost:8000/v1/jobs/{JOB_ID}/result",
)
GET_LOGS: Final = Operation(
    method="GET",
    path="/v1/jobs/{job_id}/logs",
    access=Access.JOB,
    tag="jobs",
    summary="Fetch what the function printed",
    description="With Accept: text/event-stream the logs are streamed while the function runs: events `log`, then "
    "`end`.",
    parameters=(JOB, _LAST_EVENT_ID),
    answers=(
        ResponseDoc(200, "stdout and stderr, up to the log limit", "greeting Ada\n", "text/plain", schema=TEXT),
        _ALL_SENT,
        _BAD_POSITION,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        JOB_GONE,
        TRY_AGAIN,
    ),
    curl=f"curl -N -H 'Accept: text/event-stream' localhost:8000/v1/jobs/{JOB_ID}/logs",
)
GET_EVENTS: Final = Operation(
    method="GET",
    path="/v1/jobs/{job_id}/events",
    access=Access.JOB,
    tag="jobs",
    summary="Follow a job",
    description="Server-sent events: `status` with the job at each change, `log` with the whole lines printed since "
    "the last one, `result` with the job when it is over. Each id is a position in the stream; any API process "
    "continues from it. `: ping` is sent every 15 s, and the stream ends with the job.",
    parameters=(JOB, _LAST_EVENT_ID),
    answers=(
        ResponseDoc(
            200,
            "the stream",
            'event: log\nid: running.1.6\ndata: {"text":"hello\\n"}\n\n',
            "text/event-stream",
        ),
        _ALL_SENT,
        _BAD_POSITION,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        JOB_GONE,
        TRY_AGAIN,
    ),
    curl=f"curl -N localhost:8000/v1/jobs/{JOB_ID}/events",
)
CANCEL_JOB: Final = Operation(
    method="DELETE",
    path="/v1/jobs/{job_id}",
    access=Access.CHANGE_JOB,
    audit="cancel",
    tag="jobs",
    summary="Cancel a job",
    description="A queued job never runs; a running one is killed within a second.",
    parameters=(JOB,),
    answers=(
        ResponseDoc(202, "the job is, or soon will be, cancelled", QUEUED | {"status": "cancelled"}, schema=ref("Job")),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        problem_doc("the job is over", "job_final", "the job has succeeded"),
        TRY_AGAIN,
    ),
    curl=f"curl -X DELETE localhost:8000/v1/jobs/{JOB_ID}",
)
RETRY_JOB: Final = Operation(
    method="POST",
    path="/v1/jobs/{job_id}/retry",
    access=Access.CHANGE_JOB,
    audit="retry",
    tag="jobs",
    summary="Run a job again",
    description="Submits a new job with the event and the version of one that has ended.",
    parameters=(JOB,),
    answers=(
        ResponseDoc(202, "the new job", QUEUED, headers=ACCEPTED, schema=ref("Job")),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        problem_doc("the job is not over", "job_unfinished", "the job is running; cancel it, or wait for its end"),
        NO_EVENT,
        TRY_AGAIN,
    ),
    curl=f"curl -X POST localhost:8000/v1/jobs/{JOB_ID}/retry",
)

JOBS: Final = (LIST_JOBS, GET_JOB, GET_RESULT, GET_LOGS, GET_EVENTS, CANCEL_JOB, RETRY_JOB)
