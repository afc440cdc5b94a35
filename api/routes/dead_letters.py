"""/v1/dead-letters: list, show, redrive and purge jobs that failed after their last attempt."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import Depends, Request
from fastapi.responses import Response

from api.call_options import DEFAULTS
from api.dependencies import AuthorizerDep, InvocationsDep, JobId, KeyDep, QueueDep, services_of
from api.documents import job_document
from api.operations.dead_letters import GET_DEAD_LETTER, LIST_DEAD_LETTERS, PURGE, REDRIVE
from api.responses import json_reply, pending_reply, response_of
from api.routing import Handlers
from sandlot.errors import JobGone, JobNotFound, VersionNotFound
from sandlot.jobs import JobRecord

_INLINE_EVENT_BYTES: Final = 64 * 1024

handlers = Handlers()


async def get_dead_letter_record(request: Request, job_id: JobId) -> JobRecord:
    """Return the dead letter of the path, if the caller may use it.

    Raises:
        JobNotFound, JobGone, Forbidden: see `Authorizer.authorize_job`.
    """
    services = services_of(request)
    record = await services.queue.dead_letters.get(job_id)
    return services.authorizer.authorize_job(request.scope, job_id, record)


DeadLetterDep = Annotated[JobRecord, Depends(get_dead_letter_record)]


@handlers.serves(LIST_DEAD_LETTERS)
async def list_dead_letters(
    queue: QueueDep,
    authorizer: AuthorizerDep,
    key: KeyDep,
    function: Annotated[str, LIST_DEAD_LETTERS.field("function")] = "",
    limit: Annotated[int, LIST_DEAD_LETTERS.field("limit")] = 50,
    cursor: Annotated[str, LIST_DEAD_LETTERS.field("cursor")] = "",
) -> Response:
    def is_listed(record: JobRecord) -> bool:
        return authorizer.may_list(key, record) and function in ("", record.function)

    page = await queue.dead_letters.page(is_listed, limit=limit, cursor=cursor)
    shown = [job_document(record, None) for record in page.letters]
    return response_of(json_reply(200, {"dead_letters": shown, "next": page.next}))


@handlers.serves(GET_DEAD_LETTER)
async def get_dead_letter(job: DeadLetterDep, queue: QueueDep) -> Response:
    opened = await queue.dead_letters.unseal(job.id)
    document = job_document(job, None)
    if opened is not None and len(opened[1]) <= _INLINE_EVENT_BYTES:
        document["event"] = msgspec.Raw(opened[1])
    return response_of(json_reply(200, document))


@handlers.serves(REDRIVE)
async def redrive(
    request: Request,
    job: DeadLetterDep,
    queue: QueueDep,
    invocations: InvocationsDep,
    authorizer: AuthorizerDep,
) -> Response:
    """Submit the dead letter as a new job. A repeated request finds the same new job."""
    # The new job is a call like any other: the key must still cover the function.
    _, version = await authorizer.authorize_call(dict(request.scope["headers"]), job.function, str(job.version))
    opened = await queue.dead_letters.unseal(job.id)
    if opened is None:
        raise JobGone(f"the event of job {job.id} is no longer kept")
    if version.digest != job.digest:
        raise VersionNotFound(
            f"{job.function!r} was deleted and redeployed since; its version {job.version} is another one now"
        )
    envelope, event = opened
    context = b"" if envelope.request is msgspec.UNSET else bytes(envelope.request)
    successor = queue.dead_letters.redrive_id(job.id)
    invocation = invocations.make_invocation(version, event, job.owner, DEFAULTS, job_id=successor, request=context)
    pending = await invocations.submit(invocation)
    await queue.dead_letters.remove(job.id)
    return response_of(pending_reply(invocation, pending, DEFAULTS))


@handlers.serves(PURGE)
async def purge(job: DeadLetterDep, queue: QueueDep) -> Response:
    if not await queue.dead_letters.remove(job.id):
        raise JobNotFound(f"another caller has just redriven or purged {job.id}")
    return response_of((204, [], b""))
