"""The dependencies of FastAPI routes: authorization, checks, and the parts of the application."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from fastapi import Depends, Request

from api.auth import Authorizer, key_of, operation_of
from api.call_options import read_query
from api.http.conditional import read_if_match
from api.invocations import Invocations
from api.metrics import Metrics
from api.operations.examples import IF_MATCH, JOB
from sandlot.api_keys import ApiKey
from sandlot.functions import Registry
from sandlot.jobs import JobRecord, Queue
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings

_DEPLOYS_AT_ONCE: Final = 2
"""A deploy may use 600 MiB to unpack, pack and store; further ones wait with their bodies read."""


class Services(msgspec.Struct, frozen=True):
    """The parts of one application, in `app.state.services`."""

    settings: Settings
    authorizer: Authorizer
    invocations: Invocations
    metrics: Metrics
    queue: Queue
    registry: Registry
    secrets: SecretStore
    deploy_slots: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(_DEPLOYS_AT_ONCE))


def services_of(request: Request) -> Services:
    """Return the parts of the application that serves this request."""
    services: Services = request.app.state.services
    return services


# Dependencies are coroutines, since FastAPI runs a plain function in a thread, and take their parts
# from the request: FastAPI spends 10 to 20 µs on each dependency of a dependency.


async def authorize(request: Request) -> None:
    """Refuse callers that may not use the matched operation, and query parameters it does not have.

    Every FastAPI route depends on it (`check_routes`).
    """
    await services_of(request).authorizer.authorize(request.scope)
    operation = operation_of(request.scope)
    if not operation.ignores_query:
        read_query(request.scope, operation.query_names)


async def get_services(request: Request) -> Services:
    return services_of(request)


async def get_queue(request: Request) -> Queue:
    return services_of(request).queue


async def get_invocations(request: Request) -> Invocations:
    return services_of(request).invocations


async def get_authorizer(request: Request) -> Authorizer:
    return services_of(request).authorizer


async def get_registry(request: Request) -> Registry:
    return services_of(request).registry


async def get_secrets(request: Request) -> SecretStore:
    return services_of(request).secrets


async def get_key(request: Request) -> ApiKey | None:
    """Return the caller's key; None where a job is open to callers that know its id."""
    return key_of(request.scope)


ServicesDep = Annotated[Services, Depends(get_services)]
QueueDep = Annotated[Queue, Depends(get_queue)]
InvocationsDep = Annotated[Invocations, Depends(get_invocations)]
AuthorizerDep = Annotated[Authorizer, Depends(get_authorizer)]
RegistryDep = Annotated[Registry, Depends(get_registry)]
SecretsDep = Annotated[SecretStore, Depends(get_secrets)]
KeyDep = Annotated[ApiKey | None, Depends(get_key)]
JobId = Annotated[str, JOB.field()]


async def get_job_record(request: Request, job_id: JobId) -> JobRecord:
    """Return the job of the path, if the caller may use it; see `read_job`."""
    return await read_job(services_of(request), request, job_id)


async def read_job(services: Services, request: Request, job_id: str) -> JobRecord:
    """Return a job, if the caller may use it.

    Raises:
        JobNotFound, JobGone, Forbidden: see `Authorizer.authorize_job`.
        QueueUnavailable, UnsafeRecord: the job cannot be read.
    """
    return services.authorizer.authorize_job(request.scope, job_id, await services.queue.job(job_id))


JobDep = Annotated[JobRecord, Depends(get_job_record)]


async def get_revision(if_match: Annotated[list[str] | None, IF_MATCH.field()] = None) -> str:
    """Return the revision that the function must still have; "*" for any, empty without If-Match.

    The last of several headers counts.

    Raises:
        CallerError: If-Match is not a single ETag.
    """
    return read_if_match(if_match[-1] if if_match else "")


RevisionDep = Annotated[str, Depends(get_revision)]
