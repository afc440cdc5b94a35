"""The value of a job that has ended well: whole, in part, or only what it would be.

Knows: ETag, Range, HEAD; which values are sent piece by piece. Does not know: who may see it, how it is stored.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from api.auth import Authorizer, key_of
from api.call_options import DEFAULTS, read_query, read_wait
from api.documents import job_document
from api.http.body import Body, begun
from api.http.conditional import Unsatisfiable, has_already, wanted
from api.http.problems import Headers, problem
from api.invocations import Invocations
from api.responses import JSON, RETRY_SOON, TEXT, Streamed, json_reply, pending_reply, response_of
from api.routes.events import follow
from sandlot.api_keys import Scope
from sandlot.errors import JobGone, JobUnfinished, NoResult, VersionNotFound
from sandlot.jobs import JobRecord, Queue
from sandlot.models import JobStatus
from sandlot.settings import Settings


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
        return await begun(queue.large_results.read(record.stored, part.start, part.stop))
    settled = await queue.result(record.id)
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


_INLINE_RESULT_BYTES = 64 * 1024
"""A longer result is at its link only: a job is polled, and each poll would carry it."""

_FILTERS: Final = frozenset({"function", "status", "limit", "cursor"})

JobId = Annotated[str, Path(max_length=64)]


def add_routes(routes: APIRouter, queue: Queue, calls: Invocations, door: Authorizer, settings: Settings) -> None:
    async def admitted_job(request: Request, job_id: str, need: Scope = Scope.READ) -> JobRecord:
        return door.admit_job(request.scope, job_id, await queue.job(job_id), need)

    @routes.get("/v1/jobs")
    async def list_jobs(
        request: Request,
        function: Annotated[str, Query(max_length=64)] = "",
        status: Annotated[JobStatus | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str, Query(max_length=64)] = "",
    ) -> Response:
        """The caller's jobs that are kept, newest first; `next` is the cursor of the next page, or null."""
        read_query(request.scope, _FILTERS)
        page = await queue.list_jobs(
            lambda record: (status is None or record.status is status) and door.sees(key_of(request.scope), record),
            function=function,
            limit=limit,
            cursor=cursor,
        )
        jobs = [job_document(record, None) for record in page.jobs]
        return response_of(json_reply(200, {"jobs": jobs, "next": page.next or None}))

    @routes.get("/v1/jobs/{job_id}")
    async def get_job(request: Request, job_id: JobId) -> Response:
        """The job, or (304) that it stands as before; with `Prefer: wait=N` (or `?wait=N`) as soon as it has ended, after N seconds at the latest."""
        wait_s, applied = read_wait(request.scope, read_query(request.scope, frozenset({"wait"})), settings.wait_cap_s)
        record = await admitted_job(request, job_id)
        if wait_s and not record.status.final:
            record = await calls.watch(job_id, wait_s) or record
        headers: Headers = [(b"preference-applied", applied)] if applied else []
        if not record.status.final:
            headers.append(RETRY_SOON)
        status, described, body = json_reply(200, job_document(record, await inline_result(record)))
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers.append((b"etag", etag.encode()))
        if has_already(request.headers, etag):
            return response_of((304, headers, b""))
        return response_of((status, [*described, *headers], body))

    async def inline_result(record: JobRecord) -> bytes | None:
        if record.status is not JobStatus.SUCCEEDED or record.result_bytes > _INLINE_RESULT_BYTES:
            return None
        settled = await queue.result(record.id)
        return None if settled is None else settled.result

    @routes.head("/v1/jobs/{job_id}/result", include_in_schema=False)
    @routes.get("/v1/jobs/{job_id}/result")
    async def get_result(request: Request, job_id: JobId) -> Response:
        """The value alone, as the function wrote it: whole, in part (`Range`), or not again (`If-None-Match`)."""
        read_query(request.scope, frozenset())
        record = await admitted_job(request, job_id)
        if not record.status.final:
            return response_of(json_reply(202, job_document(record, None), [RETRY_SOON]))
        return await result_response(queue, request, record)

    @routes.get("/v1/jobs/{job_id}/logs")
    async def get_logs(request: Request, job_id: JobId) -> Response:
        """What the function wrote to stdout and stderr, up to its log limit."""
        read_query(request.scope, frozenset())
        record = await admitted_job(request, job_id)
        if "text/event-stream" in request.headers.get("accept", ""):
            return follow(queue, calls, record, "logs", request.headers.get("last-event-id", ""), inline_result)
        logs = await queue.logs(job_id) or b""
        headers = [TEXT, (b"x-content-type-options", b"nosniff")]
        return response_of((200, headers if record.status.final else [*headers, RETRY_SOON], logs))

    @routes.get("/v1/jobs/{job_id}/events")
    async def get_events(request: Request, job_id: JobId) -> Response:
        """Server-sent events until the job is over: its status, what it prints while it runs, its end with the result."""
        read_query(request.scope, frozenset())
        record = await admitted_job(request, job_id)
        return follow(queue, calls, record, "events", request.headers.get("last-event-id", ""), inline_result)

    @routes.delete("/v1/jobs/{job_id}")
    async def cancel_job(request: Request, job_id: JobId) -> Response:
        """Cancel: a queued job never runs, a running one is killed within a second."""
        read_query(request.scope, frozenset())
        await admitted_job(request, job_id, Scope.INVOKE)
        return response_of(json_reply(202, job_document(await queue.cancel(job_id), None)))

    @routes.post("/v1/jobs/{job_id}/retry")
    async def retry_job(request: Request, job_id: JobId) -> Response:
        """A new job with the event and the version of one that has ended."""
        read_query(request.scope, frozenset())
        record = await admitted_job(request, job_id, Scope.INVOKE)
        if not record.status.final:
            raise JobUnfinished(
                f"job {job_id} is {record.status}; cancel it, or wait for its end, before it is run again"
            )
        # A call like any other: whoever may no longer invoke the function may not do it this way either.
        headers = dict(request.scope["headers"])
        owner, version = await door.admit_call(headers, record.function, str(record.version))
        event = await queue.event(job_id)
        if event is None:
            raise JobGone(f"the event of job {job_id} is no longer kept")
        if version.digest != record.digest:
            raise VersionNotFound(
                f"{record.function!r} was deleted and deployed anew since; its version {record.version} is another"
            )
        invocation = calls.invocation(version, event, owner, DEFAULTS)
        return response_of(pending_reply(invocation, await calls.submit(invocation), DEFAULTS))
