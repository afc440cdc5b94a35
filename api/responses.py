"""Turn the end of a call into status, headers and body.

Knows: what the headers of a synchronous reply say. Does not know: how the call was made, what a gateway makes of a result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.call_options import CallOptions
from api.documents import pending_document, settled_document
from api.http.body import Body, begun
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

Reply = tuple[int, Headers, Body]
Whole = tuple[int, Headers, bytes]


def json_reply(status: int, document: object, headers: Headers | None = None) -> Whole:
    body = msgspec.json.encode(document)
    return status, [JSON, (b"content-length", b"%d" % len(body)), *(headers or [])], body


def value_reply(settled: JobResult, wish: CallOptions, durability: Durability) -> Reply:
    """The value of a call that ended well, as the function wrote it."""
    result = settled.result
    headers = [JSON, (b"content-length", b"%d" % len(result)), *call_headers(settled, durability)]
    if wish.applied:
        headers.append((b"preference-applied", wish.applied))
    return 200, headers, result


async def stored_reply(
    settled: JobResult, stored: StoredResult, pieces: AsyncIterator[bytes], wish: CallOptions, durability: Durability
) -> Reply:
    """The same of a large value, read while it is sent. A caller who got only a part may ask for the rest where Content-Location says.

    Raises:
        JobGone, UnsafeRecord, QueueUnavailable: about its first piece.
    """
    body = await begun(pieces)
    headers = [JSON, *stored_headers(stored), *call_headers(settled, durability)]
    headers.append((b"content-location", f"{JOBS_PATH}{settled.job_id}/result".encode()))
    if wish.applied:
        headers.append((b"preference-applied", wish.applied))
    return 200, headers, body


def stored_headers(stored: StoredResult) -> Headers:
    return [(b"content-length", b"%d" % stored.size_bytes), (b"etag", b'"%b"' % stored.sha256.encode())]


def failure_reply(settled: JobResult, instance: str, wish: CallOptions, durability: Durability) -> Whole:
    """The problem document of a call that did not end well."""
    members: dict[str, object] = {"outcome": settled.kind, "job": settled_document(settled)}
    if settled.error is not None:
        members["error"] = settled.error
    if settled.evidence is not None:
        members["evidence"] = settled.evidence
    headers = call_headers(settled, durability)
    if settled.kind is OutcomeKind.EXPIRED:
        headers.append(RETRY_SOON)
    if wish.applied:
        headers.append((b"preference-applied", wish.applied))
    return problem(
        CODE_OF_OUTCOME[settled.kind],
        describe(settled.kind, settled.error, settled.evidence),
        instance=instance,
        members=members,
        headers=headers,
    )


def pending_reply(invocation: Invocation, pending: Pending, wish: CallOptions) -> Whole:
    """202: where to ask for the job."""
    headers: Headers = [
        (b"location", (JOBS_PATH + pending.job_id).encode()),
        RETRY_SOON,
        (b"x-job-id", pending.job_id.encode()),
        DURABILITY[pending.durability],
    ]
    headers.append((b"x-function-version", b"%d" % (pending.record or invocation).version))
    applied = wish.applied or (b"respond-async" if wish.respond_async else b"")
    if applied:
        headers.append((b"preference-applied", applied))
    return json_reply(202, pending_document(invocation, pending), headers)


def call_headers(settled: JobResult, durability: Durability) -> Headers:
    """What every synchronous reply says about its job."""
    timings = settled.timings
    timing = (
        f"queued;dur={timings.queued:.3f}, boot;dur={timings.boot:.3f}, import;dur={timings.import_:.3f}, "
        f"run;dur={timings.run:.3f}, settle;dur={timings.settle:.3f}, total;dur={timings.total:.3f}"
    )
    return [
        (b"x-job-id", settled.job_id.encode()),
        (b"x-function-version", b"%d" % settled.version),
        _OK if settled.kind is OutcomeKind.OK else (b"x-sandlot-outcome", settled.kind.encode()),
        DURABILITY[durability],
        (b"server-timing", timing.encode()),
    ]


def response_of(reply: Whole) -> Response:
    """The same for a route of FastAPI's."""
    status, headers, body = reply
    response = Response(body, status)
    response.raw_headers = [header for header in headers if header[0] != b"content-length"]
    if status != 204:  # which must not have it (RFC 9110, section 8.6)
        response.raw_headers.append((b"content-length", b"%d" % len(body)))
    return response


class Streamed(Response):
    """For a route of FastAPI's, a reply whose body comes in pieces, or which has only the head of one; `headers` say how long the body is."""

    def __init__(self, status: int, headers: Headers, body: Body) -> None:
        super().__init__(status_code=status)
        self.raw_headers = headers
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(send, self.status_code, self.raw_headers, self._body)
