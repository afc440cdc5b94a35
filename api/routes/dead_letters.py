"""/v1/dead-letters: jobs that failed for good although they were to be run again.

Knows: the replies. Does not know: when a job becomes one, how it is kept.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth import Authorizer, key_of
from api.call_options import DEFAULTS, read_query
from api.documents import job_document
from api.invocations import Invocations
from api.responses import json_reply, pending_reply, response_of
from api.routes.jobs import JobId
from sandlot.api_keys import Scope
from sandlot.errors import JobGone, JobNotFound, VersionNotFound
from sandlot.jobs import JobRecord, Queue

_INLINE_EVENT_BYTES: Final = 64 * 1024
_NOTHING: Final[frozenset[str]] = frozenset()


def add_routes(routes: APIRouter, queue: Queue, calls: Invocations, door: Authorizer) -> None:
    async def admitted_letter(request: Request, job_id: str, need: Scope) -> JobRecord:
        return door.admit_job(request.scope, job_id, await queue.dead_letters.get(job_id), need)

    @routes.get("/v1/dead-letters")
    async def list_letters(
        request: Request,
        function: Annotated[str, Query(max_length=64)] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str, Query(max_length=100)] = "",
    ) -> Response:
        """One's own, newest first; `next` is the cursor of the page after, or null."""
        read_query(request.scope, frozenset({"function", "limit", "cursor"}))
        key = key_of(request.scope)

        def seen(record: JobRecord) -> bool:
            return door.sees(key, record) and function in ("", record.function)

        page = await queue.dead_letters.page(seen, limit=limit, cursor=cursor)
        shown = [job_document(record, None) for record in page.letters]
        return response_of(json_reply(200, {"dead_letters": shown, "next": page.next}))

    @routes.get("/v1/dead-letters/{job_id}")
    async def get_letter(request: Request, job_id: JobId) -> Response:
        """The job, and the event it was called with unless that is large."""
        read_query(request.scope, _NOTHING)
        record = await admitted_letter(request, job_id, Scope.READ)
        opened = await queue.dead_letters.unseal(job_id)
        document = job_document(record, None)
        if opened is not None and len(opened[1]) <= _INLINE_EVENT_BYTES:
            document["event"] = msgspec.Raw(opened[1])
        return response_of(json_reply(200, document))

    @routes.post("/v1/dead-letters/{job_id}/redrive")
    async def redrive(request: Request, job_id: JobId) -> Response:
        """A new job of the same owner with the same event and version, with all its attempts; asked for twice, it is one."""
        read_query(request.scope, _NOTHING)
        record = await admitted_letter(request, job_id, Scope.INVOKE)
        # A call like any other: whoever may no longer invoke the function may not do it this way either.
        _, version = await door.admit_call(dict(request.scope["headers"]), record.function, str(record.version))
        opened = await queue.dead_letters.unseal(job_id)
        if opened is None:
            raise JobGone(f"the event of job {job_id} is no longer kept")
        if version.digest != record.digest:
            raise VersionNotFound(
                f"{record.function!r} was deleted and deployed anew since; its version {record.version} is another"
            )
        envelope, event = opened
        context = b"" if envelope.request is msgspec.UNSET else bytes(envelope.request)
        successor = queue.dead_letters.redrive_id(job_id)
        invocation = calls.invocation(version, event, record.owner, DEFAULTS, job_id=successor, request=context)
        pending = await calls.submit(invocation)
        await queue.dead_letters.remove(job_id)
        return response_of(pending_reply(invocation, pending, DEFAULTS))

    @routes.delete("/v1/dead-letters/{job_id}")
    async def purge(request: Request, job_id: JobId) -> Response:
        """Let it go: it is no longer listed."""
        read_query(request.scope, _NOTHING)
        await admitted_letter(request, job_id, Scope.INVOKE)
        if not await queue.dead_letters.remove(job_id):
            raise JobNotFound(f"somebody else has just taken up or purged {job_id}")
        return response_of((204, [], b""))
