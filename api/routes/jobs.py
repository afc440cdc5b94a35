"""/v1/jobs: list, show, follow, cancel and retry jobs, and fetch their results and logs."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from fastapi import Request
from fastapi.responses import Response

from api.call_options import DEFAULTS, read_query, read_wait
from api.dependencies import (
    AuthorizerDep,
    InvocationsDep,
    JobDep,
    JobId,
    KeyDep,
    QueueDep,
    read_job,
    services_of,
)
from api.documents import job_document
from api.http.body import Body, start_stream
from api.http.conditional import RangeNotSatisfiable, etag_matches, requested_range
from api.http.problems import Headers, problem
from api.operations.jobs import CANCEL_JOB, GET_EVENTS, GET_JOB, GET_LOGS, GET_RESULT, LIST_JOBS, RETRY_JOB
from api.responses import JSON, RETRY_SOON, TEXT, PreparedResponse, json_reply, pending_reply, response_of
from api.routes.events import stream_events
from api.routing import Handlers
from sandlot.errors import JobGone, JobUnfinished, NoResult, VersionNotFound
from sandlot.jobs import JobRecord, Queue
from sandlot.models import JobStatus

_INLINE_RESULT_BYTES: Final = 64 * 1024
"""A larger result is only at its own URL: a job is polled, and each poll would carry the result."""

handlers = Handlers()


@handlers.serves(LIST_JOBS)
async def list_jobs(
    queue: QueueDep,
    authorizer: AuthorizerDep,
    key: KeyDep,
    function: Annotated[str, LIST_JOBS.field("function")] = "",
    status: Annotated[JobStatus | None, LIST_JOBS.field("status")] = None,
    limit: Annotated[int, LIST_JOBS.field("limit")] = 100,
    cursor: Annotated[str, LIST_JOBS.field("cursor")] = "",
) -> Response:
    page = await queue.list_jobs(
        lambda record: (status is None or record.status is status) and authorizer.may_list(key, record),
        function=function,
        limit=limit,
        cursor=cursor,
    )
    jobs = [job_document(record, None) for record in page.jobs]
    return response_of(json_reply(200, {"jobs": jobs, "next": page.next or None}))


@handlers.serves(GET_JOB, reads=("wait", "Prefer", "If-None-Match"))
async def get_job(request: Request, job_id: JobId) -> Response:
    # Polled often, so it reads its parameters itself. A bad wait is a 400 whatever the job.
    services = services_of(request)
    query = read_query(request.scope, GET_JOB.query_names)
    wait_s, applied = read_wait(request.scope, query, services.settings.wait_cap_s)
    job = await read_job(services, request, job_id)
    if wait_s and not job.status.final:
        job = await services.invocations.long_poll(job.id, wait_s) or job
    headers: Headers = [(b"preference-applied", applied)] if applied else []
    if not job.status.final:
        headers.append(RETRY_SOON)
    status, described, body = json_reply(200, job_document(job, await inline_result(services.queue, job)))
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    headers.append((b"etag", etag.encode()))
    if etag_matches(request.headers.get("if-none-match", ""), etag):
        return response_of((304, headers, b""))
    return response_of((status, [*described, *headers], body))


async def inline_result(queue: Queue, job: JobRecord) -> bytes | None:
    """Return the result for the job's document; None without one, or if it is too large."""
    if job.status is not JobStatus.SUCCEEDED or job.result_bytes > _INLINE_RESULT_BYTES:
        return None
    ended = await queue.result(job.id)
    return None if ended is None else ended.result


@handlers.serves(GET_RESULT, reads=("Range", "If-Range", "If-None-Match"))
async def get_result(request: Request, job: JobDep, queue: QueueDep) -> Response:
    if not job.status.final:
        return response_of(json_reply(202, job_document(job, None), [RETRY_SOON]))
    return await result_response(queue, request, job)


async def result_response(queue: Queue, request: Request, job: JobRecord) -> Response:
    """Return the result of a job that has ended: whole, a part (Range), or 304 (If-None-Match).

    Raises:
        NoResult: the job ended without a result.
        JobGone: the result is no longer kept.
        UnsafeRecord: the result is not what its worker signed, as far as it is read before the
            first byte is sent.
        QueueUnavailable: Redis does not answer.
    """
    if job.status is not JobStatus.SUCCEEDED:
        raise NoResult(
            f"the job ended as {job.kind} and has no result; its job document says why",
            outcome=job.kind,
            error=job.error,
        )
    etag = f'"{job.result_sha256}"'
    if etag_matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers={"etag": etag})
    headers = [JSON, (b"x-job-id", job.id.encode()), (b"etag", etag.encode()), (b"accept-ranges", b"bytes")]
    size_bytes, is_head = job.result_bytes, request.method == "HEAD"
    try:
        # Range is defined for GET alone (RFC 9110, section 14.2).
        part = None if is_head else requested_range(request.headers, etag, size_bytes)
    except RangeNotSatisfiable:
        return response_of(_unsatisfiable(request, size_bytes))
    body = await _result_body(queue, job, part or slice(0, size_bytes))
    length = size_bytes if part is None else part.stop - part.start
    headers.append((b"content-length", b"%d" % length))
    if part is not None:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (part.start, part.stop - 1, size_bytes)))
    return PreparedResponse(200 if part is None else 206, headers, b"" if is_head else body)


async def _result_body(queue: Queue, job: JobRecord, part: slice) -> Body:
    """Return part of a small result; of a large one, an iterator that reads it while sent."""
    if job.stored is not None:
        return await start_stream(queue.large_results.read(job.stored, part.start, part.stop))
    ended = await queue.result(job.id)
    if ended is None:
        raise JobGone(f"the result of job {job.id} is no longer kept")
    return ended.result[part]


def _unsatisfiable(request: Request, size_bytes: int) -> tuple[int, Headers, bytes]:
    return problem(
        "range_not_satisfiable",
        f"the result has {size_bytes} bytes",
        instance=request.url.path,
        headers=[(b"content-range", b"bytes */%d" % size_bytes)],
    )


@handlers.serves(GET_LOGS)
async def get_logs(
    request: Request,
    job: JobDep,
    queue: QueueDep,
    invocations: InvocationsDep,
    last_event_id: Annotated[str, GET_LOGS.field("Last-Event-ID")] = "",
) -> Response:
    if "text/event-stream" in request.headers.get("accept", ""):
        return stream_events(queue, invocations, job, "logs", last_event_id, inline_result)
    logs = await queue.logs(job.id) or b""
    headers = [TEXT, (b"x-content-type-options", b"nosniff")]
    return response_of((200, headers if job.status.final else [*headers, RETRY_SOON], logs))


@handlers.serves(GET_EVENTS)
async def get_events(
    job: JobDep,
    queue: QueueDep,
    invocations: InvocationsDep,
    last_event_id: Annotated[str, GET_EVENTS.field("Last-Event-ID")] = "",
) -> Response:
    return stream_events(queue, invocations, job, "events", last_event_id, inline_result)


@handlers.serves(CANCEL_JOB)
async def cancel_job(job: JobDep, queue: QueueDep) -> Response:
    return response_of(json_reply(202, job_document(await queue.cancel(job.id), None)))


@handlers.serves(RETRY_JOB)
async def retry_job(
    request: Request, job: JobDep, queue: QueueDep, invocations: InvocationsDep, authorizer: AuthorizerDep
) -> Response:
    if not job.status.final:
        raise JobUnfinished(f"job {job.id} is {job.status}; cancel it, or wait for its end, before it is run again")
    # The new job is a call like any other: the key must still cover the function.
    owner, version = await authorizer.authorize_call(dict(request.scope["headers"]), job.function, str(job.version))
    event = await queue.event(job.id)
    if event is None:
        raise JobGone(f"the event of job {job.id} is no longer kept")
    if version.digest != job.digest:
        raise VersionNotFound(
            f"{job.function!r} was deleted and redeployed since; its version {job.version} is another one now"
        )
    invocation = invocations.make_invocation(version, event, owner, DEFAULTS)
    return response_of(pending_reply(invocation, await invocations.submit(invocation), DEFAULTS))
