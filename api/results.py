"""The value of a job that has ended well: whole, in part, or only what it would be.

Knows: ETag, Range, HEAD; which values are sent piece by piece. Does not know: who may see it, how it is stored.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from api.bodies import Body, begun
from api.errors import Headers, problem
from api.ranges import Unsatisfiable, has_already, wanted
from api.replies import JSON, Streamed, response_of
from sandlot.errors import JobGone, NoResult
from sandlot.jobs import JobRecord, Queue
from sandlot.models import JobStatus


async def result_response(queue: Queue, request: Request, record: JobRecord) -> Response:
    """
    Raises:
        NoResult: it ended without one.
        JobGone: it is no longer kept.
        UnsafeRecord: it is not what its worker signed, as far as was looked at before the first byte is sent.
        QueueUnavailable
    """
    if record.status is not JobStatus.SUCCEEDED:
        raise NoResult(
            f"the job ended as {record.kind} and has no result; its job document says why",
            outcome=record.kind,
            error=record.error,
        )
    etag = f'"{record.result_sha256}"'
    if has_already(request.headers, etag):
        return Response(status_code=304, headers={"etag": etag})
    headers = [JSON, (b"x-job-id", record.id.encode()), (b"etag", etag.encode()), (b"accept-ranges", b"bytes")]
    size_bytes, only_head = record.result_bytes, request.method == "HEAD"
    try:
        part = (
            None if only_head else wanted(request.headers, etag, size_bytes)
        )  # Range is for GET (RFC 9110, section 14.2)
    except Unsatisfiable:
        return response_of(_unsatisfiable(request, size_bytes))
    body = await _body(queue, record, part or slice(0, size_bytes))
    length = size_bytes if part is None else part.stop - part.start
    headers.append((b"content-length", b"%d" % length))
    if part is not None:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (part.start, part.stop - 1, size_bytes)))
    return Streamed(200 if part is None else 206, headers, b"" if only_head else body)


async def _body(queue: Queue, record: JobRecord, part: slice) -> Body:
    """These bytes of a small value; of a large one, what reads them when they are wanted."""
    if record.stored is not None:
        return await begun(queue.results.read(record.stored, part.start, part.stop))
    settled = await queue.settled(record.id)
    if settled is None:
        raise JobGone(f"the result of job {record.id} is no longer kept")
    return settled.result[part]


def _unsatisfiable(request: Request, size_bytes: int) -> tuple[int, Headers, bytes]:
    return problem(
        "range_not_satisfiable",
        f"the result has {size_bytes} bytes",
        instance=request.url.path,
        headers=[(b"content-range", b"bytes */%d" % size_bytes)],
    )
