"""/v1/jobs and /v1/jobs/{job_id}: how an invocation stands, what it returned, what it printed; and how to stop it.

Knows: the replies for each state of a job. Does not know: how a job is stored.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from api.auth import Door, key_of
from api.calls import Calls
from api.documents import job_document
from api.errors import Headers
from api.ranges import has_already
from api.replies import RETRY_SOON, TEXT, json_reply, pending_reply, response_of
from api.results import result_response
from api.streams import follow
from api.wishes import PLAIN, read_query, read_wait
from sandlot.api_keys import Scope
from sandlot.errors import JobGone, JobUnfinished, VersionNotFound
from sandlot.jobs import JobRecord, Queue
from sandlot.models import JobStatus
from sandlot.settings import Settings

_INLINE_RESULT_BYTES = 64 * 1024
"""A longer result is at its link only: a job is polled, and each poll would carry it."""

_FILTERS: Final = frozenset({"function", "status", "limit", "cursor"})

JobId = Annotated[str, Path(max_length=64)]


def add_routes(routes: APIRouter, queue: Queue, calls: Calls, door: Door, settings: Settings) -> None:
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
        page = await queue.page(
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
        settled = await queue.settled(record.id)
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
        invocation = calls.invocation(version, event, owner, PLAIN)
        return response_of(pending_reply(invocation, await calls.submit(invocation), PLAIN))
