"""How an operation describes itself, and the errors that several share.

Knows: the form of the table. Does not know: any operation.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from api.http.problems import STATUS, TITLE
from api.operations.schemas import TEXT, ref

Json = Any


class Header(msgspec.Struct, frozen=True):
    """A header of a reply; `values` if there are only these."""

    name: str
    description: str
    example: str
    values: tuple[str, ...] = ()


class ResponseDoc(msgspec.Struct, frozen=True):
    """One reply: `example` is JSON, or text for `text/plain`; `None` for no body."""

    status: int
    description: str
    example: Json = None
    media_type: str = "application/json"
    headers: tuple[Header, ...] = ()
    schema: Json = msgspec.field(default_factory=dict)


class Parameter(msgspec.Struct, frozen=True):
    name: str
    where: str
    description: str
    example: Json = None
    schema: Json = msgspec.field(default_factory=TEXT.copy)


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
    body_schema: Json = msgspec.field(default_factory=dict)
    answers: tuple[ResponseDoc, ...]
    curl: str


def not_ok(description: str, code: str, detail: str, **members: Json) -> ResponseDoc:
    """The reply with this code: status and title are what the API itself answers with."""
    document = {
        "type": f"urn:sandlot:problem:{code}",
        "title": TITLE[code],
        "status": STATUS[code],
        "detail": detail,
        "instance": "/v1/…",
        "code": code,
    }
    return ResponseDoc(STATUS[code], description, document | members, "application/problem+json", schema=ref("Problem"))


BAD: Final = not_ok(
    "a parameter or header means nothing",
    "bad_request",
    "unknown query parameter 'stats'; there are: function, status",
)
NO_KEY: Final = not_ok("no valid key", "unauthenticated", "this needs an API key")
NO_SCOPE: Final = not_ok("the key does not cover this", "forbidden", "this needs the scope deploy")
NO_FUNCTION: Final = not_ok("no such function", "function_not_found", "no function 'helo' is deployed")
NO_JOB: Final = not_ok(
    "no such job, or not yours",
    "job_not_found",
    "no job '5b0c…': it never was, or it is not yours",
)
GONE: Final = not_ok("it was yours and is no longer kept", "job_gone", "job 0192… has ended, and its retention is over")
NO_VERSION: Final = not_ok("no such function, version or alias", "version_not_found", "'hello' has no version 9")
CHANGED: Final = not_ok(
    "the function is not at the revision in If-Match",
    "version_conflict",
    "'hello' has changed since you read it (If-Match does not match); nothing was changed. Read it again, then decide",
)
IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    "the function's ETag: do nothing if it has changed since",
    '"1795406400000000"',
    {"type": "string", "pattern": '^("[^"]+"|[*])$'},
)
TRY_AGAIN: Final = not_ok(
    "try again: Redis, or a worker, is away",
    "no_worker",
    "no live worker can run python",
    retry_after_s=1,
)
