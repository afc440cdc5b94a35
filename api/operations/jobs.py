"""Asking for jobs, as the documentation shows it.

Knows: its words, parameters, answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.examples import ACCEPTED, JOB, JOB_ID, PREFER, QUEUED, SUCCEEDED, WAIT
from api.operations.form import (
    BAD,
    GONE,
    NO_JOB,
    NO_KEY,
    NO_SCOPE,
    TRY_AGAIN,
    Header,
    Operation,
    Parameter,
    ResponseDoc,
    not_ok,
)
from api.operations.schemas import JOB_STATUS, PLACE, TEXT, cursor, limit, page, ref

_ETAG: Final = f'"{"1" * 64}"'
IF_NONE_MATCH: Final = Parameter(
    "If-None-Match", "header", "the ETag of an earlier reply: 304 if it would be the same", _ETAG
)
ETAG: Final = Header("ETag", "changes whenever the job does", _ETAG)
LAST_EVENT_ID: Final = Parameter("Last-Event-ID", "header", "go on behind this event", "running.1.512", PLACE)
BAD_PLACE: Final = not_ok(
    "Last-Event-ID is none of this stream's", "bad_request", "Last-Event-ID 'x' is none of this stream's"
)

JOBS: Final = (
    Operation(
        method="GET",
        path="/v1/jobs",
        tag="jobs",
        summary="Jobs, newest first",
        description="Those of the key's owner, and of functions that the key covers. A page may be short and still have a next one.",
        parameters=(
            Parameter("function", "query", "of this function only", "hello", cursor(64)),
            Parameter(
                "status",
                "query",
                "queued, running, scheduled, succeeded, failed, timed_out, killed, cancelled, expired or lost",
                "failed",
                JOB_STATUS,
            ),
            Parameter("limit", "query", "1 to 1000", 100, limit(1000)),
            Parameter("cursor", "query", "next of the page before", JOB_ID, cursor(64)),
        ),
        answers=(
            ResponseDoc(200, "a page", {"jobs": [QUEUED], "next": JOB_ID}, schema=page("jobs", ref("Job"))),
            BAD,
            NO_KEY,
            NO_SCOPE,
            TRY_AGAIN,
        ),
        curl="curl 'localhost:8000/v1/jobs?status=failed&limit=20'",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}",
        tag="jobs",
        summary="How a job stands",
        description="With a wait: answers as soon as the job is over, after the wait at the latest.",
        parameters=(JOB, WAIT, PREFER, IF_NONE_MATCH),
        answers=(
            ResponseDoc(200, "the job", SUCCEEDED, headers=(ETAG,), schema=ref("Job")),
            ResponseDoc(304, "it stands as it did", headers=(ETAG,)),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            GONE,
            TRY_AGAIN,
        ),
        curl=f"curl -H 'Prefer: wait=5' localhost:8000/v1/jobs/{JOB_ID}",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}/result",
        tag="jobs",
        summary="What the function returned",
        description="Its ETag never changes: If-None-Match answers 304, Range a part of it, HEAD how long it is. What is longer than 256 KiB is read "
        "while it is sent; if the rest cannot be had, the connection ends before Content-Length is reached.",
        parameters=(JOB,),
        answers=(
            ResponseDoc(200, "the value alone", {"message": "Hello, Ada!"}),
            ResponseDoc(206, "the part that Range asked for", "Ada!", "application/json"),
            ResponseDoc(202, "not over yet", QUEUED, schema=ref("Job")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            not_ok(
                "it ended without a result",
                "no_result",
                "the job ended as timeout and has no result",
                outcome="timeout",
            ),
            GONE,
            TRY_AGAIN,
        ),
        curl=f"curl localhost:8000/v1/jobs/{JOB_ID}/result",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}/logs",
        tag="jobs",
        summary="What the function printed",
        description="With Accept: text/event-stream it is followed while it runs: the events `log`, then `end`.",
        parameters=(JOB, LAST_EVENT_ID),
        answers=(
            ResponseDoc(200, "stdout and stderr, up to the log limit", "greeting Ada\n", "text/plain", schema=TEXT),
            ResponseDoc(204, "all of it was said before (Last-Event-ID)"),
            BAD_PLACE,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            GONE,
            TRY_AGAIN,
        ),
        curl=f"curl -N -H 'Accept: text/event-stream' localhost:8000/v1/jobs/{JOB_ID}/logs",
    ),
    Operation(
        method="GET",
        path="/v1/jobs/{job_id}/events",
        tag="jobs",
        summary="Follow a job as it happens",
        description="Server-sent events: `status` with the job at each change, `log` with the whole lines it has printed since, `result` with the job when it is over. "
        "Each id says how far you are; any API process goes on from there. `: ping` comes every 15 s, and the stream ends with the job.",
        parameters=(JOB, LAST_EVENT_ID),
        answers=(
            ResponseDoc(
                200,
                "the stream",
                'event: log\nid: running.1.6\ndata: {"text":"hello\\n"}\n\n',
                "text/event-stream",
            ),
            ResponseDoc(204, "all of it was said before (Last-Event-ID)"),
            BAD_PLACE,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            GONE,
            TRY_AGAIN,
        ),
        curl=f"curl -N localhost:8000/v1/jobs/{JOB_ID}/events",
    ),
    Operation(
        method="DELETE",
        path="/v1/jobs/{job_id}",
        tag="jobs",
        summary="Cancel a job",
        description="A queued job never runs, a running one is killed within a second.",
        parameters=(JOB,),
        answers=(
            ResponseDoc(202, "it is, or will be, cancelled", QUEUED | {"status": "cancelled"}, schema=ref("Job")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            not_ok("it is over", "job_final", "the job has succeeded"),
            TRY_AGAIN,
        ),
        curl=f"curl -X DELETE localhost:8000/v1/jobs/{JOB_ID}",
    ),
    Operation(
        method="POST",
        path="/v1/jobs/{job_id}/retry",
        tag="jobs",
        summary="Run a job again",
        description="A new job with the event and the version of one that has ended.",
        parameters=(JOB,),
        answers=(
            ResponseDoc(202, "the new job", QUEUED, headers=ACCEPTED, schema=ref("Job")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            not_ok("it is not over", "job_unfinished", "the job is running; cancel it, or wait for its end"),
            not_ok("its event is no longer kept", "job_gone", "the event is no longer kept"),
            TRY_AGAIN,
        ),
        curl=f"curl -X POST localhost:8000/v1/jobs/{JOB_ID}/retry",
    ),
)
