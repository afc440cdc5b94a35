"""The one table from codes to HTTP statuses, and the one writer of problem documents (RFC 9457).

Knows: which status a code has, whose fault a status says it is. Does not know: routes, Redis, how an error came about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.types import Scope, Send

from api.http.body import Body, send_pieces
from sandlot.errors import SandlotError, TryAgain
from sandlot.models import OutcomeKind

Headers = list[tuple[bytes, bytes]]

STATUS: Final[Mapping[str, int]] = {
    # The caller can fix it.
    "bad_request": 400,
    "invalid_json": 400,
    "invalid_preference": 400,
    "callback_refused": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "function_not_found": 404,
    "version_not_found": 404,
    "secret_not_found": 404,
    "job_not_found": 404,
    "method_not_allowed": 405,
    "head_timeout": 408,
    "version_failed": 409,
    "job_final": 409,
    "job_unfinished": 409,
    "no_result": 409,
    "job_gone": 410,
    "version_conflict": 412,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "head_too_large": 431,
    "invalid_manifest": 422,
    "isolation_missing": 422,
    "idempotency_conflict": 422,
    # Try again.
    "queue_full": 429,
    "try_again": 503,
    "queue_unavailable": 503,
    "no_worker": 503,
    "function_crash_loop": 503,
    "version_pending": 503,
    "shutting_down": 503,
    "too_many_connections": 503,
    "wait_timeout": 504,
    # How a function ended. The platform did what it promised, so none of these is a 500.
    "function_error": 502,
    "function_killed": 502,
    "function_timeout": 504,
    "bad_result": 502,
    "bad_function_response": 502,
    "worker_lost": 502,
    "job_cancelled": 409,
    "job_expired": 503,
    # Ours: a bug, or an installation that an operator has to mend.
    "sandlot_error": 500,
    "internal_error": 500,
    "operator_error": 500,
    "invalid_settings": 500,
    "runtime_unavailable": 500,
    "sandbox_unavailable": 500,
    "port_taken": 500,
    "schema_mismatch": 500,
    "unsafe_record": 500,
    "api_unreachable": 500,
}

TITLE: Final[Mapping[str, str]] = {
    "bad_request": "The request cannot be honoured as it is",
    "invalid_json": "The body is not acceptable JSON",
    "invalid_preference": "A preference cannot be honoured",
    "callback_refused": "That URL is not called back",
    "unauthenticated": "A valid API key is needed",
    "forbidden": "The API key does not cover this",
    "not_found": "Nothing is at that path",
    "function_not_found": "No such function",
    "version_not_found": "No such version",
    "version_failed": "The version's dependencies cannot be had",
    "secret_not_found": "No such secret",
    "job_not_found": "No such job",
    "method_not_allowed": "That path does not take this method",
    "head_timeout": "The headers did not arrive in time",
    "head_too_large": "The headers are too large",
    "job_final": "The job has ended",
    "job_unfinished": "The job has not ended",
    "range_not_satisfiable": "The range is behind the end",
    "no_result": "The job ended without a result",
    "version_conflict": "The function has changed in between",
    "job_gone": "The job's retention is over",
    "payload_too_large": "The body is too large",
    "unsupported_media_type": "The body is of a type that is not read here",
    "invalid_manifest": "That cannot be a function",
    "isolation_missing": "A wall that the function requires is missing",
    "idempotency_conflict": "The idempotency key was used with another payload",
    "queue_full": "The queue is full",
    "queue_unavailable": "The queue does not answer",
    "no_worker": "No worker can run this function",
    "function_crash_loop": "The function crashes too often",
    "version_pending": "The version's dependencies are not there yet",
    "shutting_down": "This server is stopping",
    "too_many_connections": "There are too many connections",
    "wait_timeout": "The wait is over, the function is not",
    "function_error": "The function failed",
    "function_killed": "The function was killed at a limit",
    "function_timeout": "The function passed its time limit",
    "bad_result": "The function's answer is not JSON",
    "bad_function_response": "The function's answer is not an HTTP response",
    "worker_lost": "The workers that ran the function were lost",
    "job_cancelled": "The job was cancelled",
    "job_expired": "The job was not started in time",
    "internal_error": "A bug in Sandlot",
}

CODE_OF_OUTCOME: Final[Mapping[OutcomeKind, str]] = {
    OutcomeKind.ERROR: "function_error",
    OutcomeKind.IMPORT_ERROR: "function_error",
    OutcomeKind.EXIT: "function_error",
    OutcomeKind.TIMEOUT: "function_timeout",
    OutcomeKind.MEMORY: "function_killed",
    OutcomeKind.CPU: "function_killed",
    OutcomeKind.PROCESSES: "function_killed",
    OutcomeKind.OUTPUT: "function_killed",
    OutcomeKind.SIGNAL: "function_killed",
    OutcomeKind.BAD_RESULT: "bad_result",
    OutcomeKind.CANCELLED: "job_cancelled",
    OutcomeKind.EXPIRED: "job_expired",
    OutcomeKind.WORKER_LOST: "worker_lost",
}

CLIENT_GONE: Final = 499
"""Never sent: what a span says when nobody was left to be answered, as nginx writes it in its log."""

PROBLEM_TYPE: Final = (b"content-type", b"application/problem+json")


def problem(
    code: str,
    detail: str,
    *,
    instance: str,
    members: Mapping[str, object] | None = None,
    headers: Headers | None = None,
) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a problem document; `members` are added to it and never replace the standard ones."""
    status = STATUS[code]
    document: dict[str, object] = {
        "type": f"urn:sandlot:problem:{code}",
        "title": TITLE.get(code, "The request failed"),
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
    }
    document |= {name: value for name, value in (members or {}).items() if name not in document}
    body = msgspec.json.encode(document)
    return status, [PROBLEM_TYPE, (b"content-length", b"%d" % len(body)), *(headers or [])], body


def problem_of(error: SandlotError, *, instance: str) -> tuple[int, Headers, bytes]:
    """The problem document of one of our exceptions, with the headers its status calls for."""
    headers: Headers = []
    members = dict(error.fields)
    if isinstance(error, TryAgain):
        # The header knows whole seconds only (RFC 9110, section 10.2.3).
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        members["retry_after_s"] = round(error.retry_after_s, 3)
    if STATUS[error.code] == 401:
        headers.append((b"www-authenticate", b'Bearer realm="sandlot"'))
    if isinstance(location := members.get("location"), str):
        headers.append((b"location", location.encode("latin-1")))
    if isinstance(job := members.get("job"), dict) and "version" in job:
        headers += [(b"x-job-id", job["id"].encode()), (b"x-function-version", b"%d" % job["version"])]
    if isinstance(allow := members.get("allow"), list):
        headers.append((b"allow", ", ".join(allow).encode("latin-1")))
    return problem(error.code, error.message, instance=instance, members=members, headers=headers)


async def send_problem(scope: Scope, send: Send, error: SandlotError, extra: Headers | None = None) -> None:
    status, headers, body = problem_of(error, instance=scope["path"])
    await send_reply(send, status, headers + (extra or []), body)


async def send_reply(send: Send, status: int, headers: Headers, body: Body) -> None:
    """One whole answer; `headers` already say how long it is."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
    else:
        await send_pieces(send, body)
