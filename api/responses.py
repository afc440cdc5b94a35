"""Replies: status, headers and body for the end of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.call_options import CallOptions
from api.documents import ended_document, pending_document
from api.http.body import Body, start_stream
from api.http.problems import CODE_OF_OUTCOME, Headers, problem, send_reply
from api.invocations import JOBS_PATH, Pending
from sandlot.jobs import JobResult, StoredResult
from sandlot.models import Invocation, OutcomeKind, describe
from sandlot.redis.durability import Durability

JSON: Final = (b"content-type", b"application/json")
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
RETRY_SOON: Final = (b"retry-after", b"1")
DURABILITY: Final = {durability: (b"x-durability", durability.encode()) for durability in Durability}
_OK: Final = (b"x-sandlot-outcome", b"ok")

HttpReply = tuple[int, Headers, Body]
CompleteReply = tuple[int, Headers, bytes]


def json_reply(status: int, document: object, headers: Headers | None = None) -> CompleteReply:
    """Return a reply with a JSON document."""
    body = msgspec.json.encode(document)
    return status, [JSON, (b"content-length", b"%d" % len(body)), *(headers or [])], body


def value_reply(ended: JobResult, options: CallOptions, durability: Durability) -> HttpReply:
    """Return the value of a successful call, as the function wrote it."""
    result = ended.result
    headers = [JSON, (b"content-length", b"%d" % len(result)), *call_headers(ended, durability)]
    if options.applied:
        headers.append((b"preference-applied", options.applied))
    return 200, headers, result


async def stored_reply(
    ended: JobResult, stored: StoredResult, chunks: AsyncIterator[bytes], options: CallOptions, durability: Durability
) -> HttpReply:
    """Return a large value of a successful call, which is read while it is sent.

    A caller that received only a part may request the rest at Content-Location.

    Raises:
        JobGone, UnsafeRecord, QueueUnavailable: the first chunk cannot be read.
    """
    body = await start_stream(chunks)
    headers = [JSON, *stored_headers(stored), *call_headers(ended, durability)]
    headers.append((b"content-location", f"{JOBS_PATH}{ended.job_id}/result".encode()))
    if options.applied:
        headers.append((b"preference-applied", options.applied))
    return 200, headers, body


def stored_headers(stored: StoredResult) -> Headers:
    """Return the length and ETag of a large value."""
    return [(b"content-length", b"%d" % stored.size_bytes), (b"etag", b'"%b"' % stored.sha256.encode())]


def failure_reply(ended: JobResult, instance: str, options: CallOptions, durability: Durability) -> CompleteReply:
    """Return the problem document of a call that did not succeed."""
    members: dict[str, object] = {"outcome": ended.kind, "job": ended_document(ended)}
    if ended.error is not None:
        members["error"] = ended.error
    if ended.evidence is not None:
        members["evidence"] = ended.evidence
    headers = call_headers(ended, durability)
    if ended.kind is OutcomeKind.EXPIRED:
        headers.append(RETRY_SOON)
    if options.applied:
        headers.append((b"preference-applied", options.applied))
    return problem(
        CODE_OF_OUTCOME[ended.kind],
        describe(ended.kind, ended.error, ended.evidence),
        instance=instance,
        members=members,
        headers=headers,
    )


def pending_reply(invocation: Invocation, pending: Pending, options: CallOptions) -> CompleteReply:
    """Return a 202 with the address of the job."""
    headers: Headers = [
        (b"location", (JOBS_PATH + pending.job_id).encode()),
        RETRY_SOON,
        (b"x-job-id", pending.job_id.encode()),
        DURABILITY[pending.durability],
    ]
    headers.append((b"x-function-version", b"%d" % (pending.record or invocation).version))
    applied = options.applied or (b"respond-async" if options.respond_async else b"")
    if applied:
        headers.append((b"preference-applied", applied))
    return json_reply(202, pending_document(invocation, pending), headers)


def call_headers(ended: JobResult, durability: Durability) -> Headers:
    """Return the headers that every synchronous reply has about its job."""
    timings = ended.timings
    timing = (
        f"queued;dur={timings.queued:.3f}, boot;dur={timings.boot:.3f}, import;dur={timings.import_:.3f}, "
        f"run;dur={timings.run:.3f}, settle;dur={timings.settle:.3f}, total;dur={timings.total:.3f}"
    )
    return [
        (b"x-job-id", ended.job_id.encode()),
        (b"x-function-version", b"%d" % ended.version),
        _OK if ended.kind is OutcomeKind.OK else (b"x-sandlot-outcome", ended.kind.encode()),
        DURABILITY[durability],
        (b"server-timing", timing.encode()),
    ]


def response_of(reply: CompleteReply) -> Response:
    """Return a reply as a Starlette response, for a FastAPI handler."""
    status, headers, body = reply
    response = Response(body, status)
    response.raw_headers = [header for header in headers if header[0] != b"content-length"]
    if status != 204:  # 204 must not have the header (RFC 9110, section 8.6)
        response.raw_headers.append((b"content-length", b"%d" % len(body)))
    return response


class PreparedResponse(Response):
    """A response whose headers already give the length of the body.

    The body may be a stream, or empty where only the head of a longer one is sent (HEAD).
    """

    def __init__(self, status: int, headers: Headers, body: Body) -> None:
        super().__init__(status_code=status)
        self.raw_headers = headers
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(send, self.status_code, self.raw_headers, self._body)
