"""The operations on dead letters."""

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
    QUEUED,
    SUCCEEDED,
    TRY_AGAIN,
    UNAUTHENTICATED,
)
from api.operations.operation import Access, Operation, Parameter, ResponseDoc
from api.operations.schemas import cursor, limit, page, ref

_ERROR: Final = {"errorType": "ValueError", "errorMessage": "no name", "stackTrace": []}
_DEAD_LETTER: Final = {name: value for name, value in SUCCEEDED.items() if name != "result"} | {
    "status": "failed",
    "attempt": 3,
    "outcome": "error",
    "error": _ERROR,
    "last_failure": {"attempt": 2, "outcome": "error", "error": _ERROR},
}

LIST_DEAD_LETTERS: Final = Operation(
    method="GET",
    path="/v1/dead-letters",
    access=Access.READ,
    tag="dead letters",
    summary="List the jobs that failed after their last attempt",
    description="Newest first: jobs whose attempts were used up, or that became too old for another one. They are "
    "kept for a week.",
    parameters=(
        Parameter("function", "query", "only dead letters of this function", "hello", cursor(64)),
        Parameter("limit", "query", "dead letters per page, 1 to 200", 50, limit(200)),
        Parameter("cursor", "query", "`next` of the previous page", f"1795406400000-{JOB_ID}", cursor(100)),
    ),
    answers=(
        ResponseDoc(
            200, "a page", {"dead_letters": [_DEAD_LETTER], "next": None}, schema=page("dead_letters", ref("Job"))
        ),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        TRY_AGAIN,
    ),
    curl="curl 'localhost:8000/v1/dead-letters?function=hello'",
)
GET_DEAD_LETTER: Final = Operation(
    method="GET",
    path="/v1/dead-letters/{job_id}",
    access=Access.JOB,
    tag="dead letters",
    summary="Show a dead letter with its event",
    description="An event above 64 KiB is left out.",
    parameters=(JOB,),
    answers=(
        ResponseDoc(200, "the job and its event", _DEAD_LETTER | {"event": {"name": None}}, schema=ref("DeadLetter")),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        JOB_GONE,
        TRY_AGAIN,
    ),
    curl=f"curl localhost:8000/v1/dead-letters/{JOB_ID}",
)
REDRIVE: Final = Operation(
    method="POST",
    path="/v1/dead-letters/{job_id}/redrive",
    access=Access.CHANGE_JOB,
    audit="redrive",
    tag="dead letters",
    summary="Redrive a dead letter",
    description="Submits a new job of the same owner with the event and the version of the old one and with all its "
    "attempts.",
    parameters=(JOB,),
    answers=(
        ResponseDoc(202, "the new job", QUEUED, headers=ACCEPTED, schema=ref("Job")),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        NO_EVENT,
        TRY_AGAIN,
    ),
    curl=f"curl -X POST localhost:8000/v1/dead-letters/{JOB_ID}/redrive",
)
PURGE: Final = Operation(
    method="DELETE",
    path="/v1/dead-letters/{job_id}",
    access=Access.CHANGE_JOB,
    audit="purge",
    tag="dead letters",
    summary="Purge a dead letter",
    parameters=(JOB,),
    answers=(
        ResponseDoc(204, "the dead letter is no longer listed"),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_JOB,
        JOB_GONE,
        TRY_AGAIN,
    ),
    curl=f"curl -X DELETE localhost:8000/v1/dead-letters/{JOB_ID}",
)

DEAD_LETTERS: Final = (LIST_DEAD_LETTERS, GET_DEAD_LETTER, REDRIVE, PURGE)
