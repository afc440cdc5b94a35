"""Problem documents (RFC 9457), and the only table from error codes to HTTP statuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.types import Scope, Send

from api.http.body import Body, send_stream
from sandlot.errors import SandlotError, TryAgain
from sandlot.models import OutcomeKind

Headers = list[tuple[bytes, bytes]]

STATUS: Final[Mapping[str, int]] = {
    # The caller can fix these.
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
    # Outcomes of a function. The platform worked as promised, so none of these is a 500.
    "function_error": 502,
    "function_killed": 502,
    "function_timeout": 504,
    "bad_result": 502,
    "bad_function_response": 502,
    "worker_lost": 502,
    "job_cancelled": 409,
    "job_expired": 503,
    # A bug, or an installation that its operator has to repair.
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
    "bad_request": "The request is not valid",
    "invalid_json": "The body is not acceptable JSON",
    "invalid_preference": "A preference cannot be honoured",
    "callback_refused": "The callback URL is not allowed",
    "unauthenticated": "A valid API key is required",
    "forbidden": "The API key does not cover this",
    "not_found": "Nothing is at that path",
    "function_not_found": "No such function",
    "version_not_found": "No such version",
    "version_failed": "The version's dependencies cannot be installed",
    "secret_not_found": "No such secret",
    "job_not_found": "No such job",
    "method_not_allowed": "The method is not allowed for that path",
    "head_timeout": "The headers did not arrive in time",
    "head_too_large": "The headers are too large",
    "job_final": "The job has ended",
    "job_unfinished": "The job has not ended",
    "range_not_satisfiable": "The range starts after the end",
    "no_result": "The job ended without a result",
    "version_conflict": "The function has changed in the meantime",
    "job_gone": "The job's retention is over",
    "payload_too_large": "The body is too large",
    "unsupported_media_type": "The media type of the body is not supported",
    "invalid_manifest": "The code or manifest is not valid",
    "isolation_missing": "An isolation feature that the function requires is missing",
    "idempotency_conflict": "The idempotency key was used with another payload",
    "queue_full": "The queue is full",
    "queue_unavailable": "The queue does not answer",
    "no_worker": "No worker can run this function",
    "function_crash_loop": "The function crashes too often",
    "version_pending": "The version's dependencies are not installed yet",
    "shutting_down": "This server is stopping",
    "too_many_connections": "There are too many connections",
    "wait_timeout": "The wait is over, but the function is still running",
    "function_error": "The function failed",
    "function_killed": "The function was killed at a limit",
    "function_timeout": "The function exceeded its time limit",
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
"""Never sent: the status of a span whose caller disconnected, as nginx logs it."""

PROBLEM_TYPE: Final = (b"content-type", b"application/problem+json")


def problem(
    code: str,
    detail: str,
    *,
    instance: str,
    members: Mapping[str, object] | None = None,
    headers: Headers | None = None,
) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of a problem document.

    `members` are added to it and never replace the standard members.
    """
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
    """Return the problem document of an exception, with the headers that its status requires."""
    headers: Headers = []
    members = dict(error.fields)
    if isinstance(error, TryAgain):
        # The header has whole seconds only (RFC 9110, section 10.2.3).
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
    """Send an exception as a problem document."""
    status, headers, body = problem_of(error, instance=scope["path"])
    await send_reply(send, status, headers + (extra or []), body)


async def send_reply(send: Send, status: int, headers: Headers, body: Body) -> None:
    """Send one whole reply, whose headers already give its length."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
    else:
        await send_stream(send, body)
