"""Dead letters, as the documentation shows them.

Knows: their words, parameters, answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.examples import ACCEPTED, JOB, JOB_ID, QUEUED, SUCCEEDED
from api.operations.form import (
    BAD,
    GONE,
    NO_JOB,
    NO_KEY,
    NO_SCOPE,
    TRY_AGAIN,
    Operation,
    Parameter,
    ResponseDoc,
    not_ok,
)
from api.operations.schemas import cursor, limit, page, ref

_ERROR: Final = {"errorType": "ValueError", "errorMessage": "no name", "stackTrace": []}
_LETTER: Final = {name: value for name, value in SUCCEEDED.items() if name != "result"} | {
    "status": "failed",
    "attempt": 3,
    "outcome": "error",
    "error": _ERROR,
    "last_failure": {"attempt": 2, "outcome": "error", "error": _ERROR},
}

DEAD_LETTERS: Final = (
    Operation(
        method="GET",
        path="/v1/dead-letters",
        tag="dead letters",
        summary="Jobs that were tried in vain",
        description="Newest first: those whose attempts were used up, or that were too old to be tried again. They are kept for a week.",
        parameters=(
            Parameter("function", "query", "only this function's", "hello", cursor(64)),
            Parameter("limit", "query", "at most so many on a page, 1 to 200", 50, limit(200)),
            Parameter("cursor", "query", "next of the page before", f"1795406400000-{JOB_ID}", cursor(100)),
        ),
        answers=(
            ResponseDoc(
                200, "a page", {"dead_letters": [_LETTER], "next": None}, schema=page("dead_letters", ref("Job"))
            ),
            BAD,
            NO_KEY,
            NO_SCOPE,
            TRY_AGAIN,
        ),
        curl="curl 'localhost:8000/v1/dead-letters?function=hello'",
    ),
    Operation(
        method="GET",
        path="/v1/dead-letters/{job_id}",
        tag="dead letters",
        summary="One of them, with its event",
        description="An event above 64 KiB is left out.",
        parameters=(JOB,),
        answers=(
            ResponseDoc(200, "the job and its event", _LETTER | {"event": {"name": None}}, schema=ref("DeadLetter")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            GONE,
            TRY_AGAIN,
        ),
        curl=f"curl localhost:8000/v1/dead-letters/{JOB_ID}",
    ),
    Operation(
        method="POST",
        path="/v1/dead-letters/{job_id}/redrive",
        tag="dead letters",
        summary="Take one up again",
        description="A new job of the same owner, with the event and the version of the old one and all its attempts.",
        parameters=(JOB,),
        answers=(
            ResponseDoc(202, "the new job", QUEUED, headers=ACCEPTED, schema=ref("Job")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_JOB,
            not_ok("its event is no longer kept", "job_gone", "the event is no longer kept"),
            TRY_AGAIN,
        ),
        curl=f"curl -X POST localhost:8000/v1/dead-letters/{JOB_ID}/redrive",
    ),
    Operation(
        method="DELETE",
        path="/v1/dead-letters/{job_id}",
        tag="dead letters",
        summary="Let one go",
        parameters=(JOB,),
        answers=(ResponseDoc(204, "it is no longer listed"), BAD, NO_KEY, NO_SCOPE, NO_JOB, GONE, TRY_AGAIN),
        curl=f"curl -X DELETE localhost:8000/v1/dead-letters/{JOB_ID}",
    ),
)
