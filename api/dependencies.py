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


# All of them are coroutines: FastAPI would run a plain function in a thread.


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


async def get_queue(services: ServicesDep) -> Queue:
    return services.queue


async def get_invocations(services: ServicesDep) -> Invocations:
    return services.invocations


async def get_authorizer(services: ServicesDep) -> Authorizer:
    return services.authorizer


async def get_registry(services: ServicesDep) -> Registry:
    return services.registry


async def get_secrets(services: ServicesDep) -> SecretStore:
    return services.secrets


QueueDep = Annotated[Queue, Depends(get_queue)]
InvocationsDep = Annotated[Invocations, Depends(get_invocations)]
AuthorizerDep = Annotated[Authorizer, Depends(get_authorizer)]
RegistryDep = Annotated[Registry, Depends(get_registry)]
SecretsDep = Annotated[SecretStore, Depends(get_secrets)]


async def authorize(request: Request, authorizer: AuthorizerDep) -> None:
    """Refuse a caller that may not use the matched operation. Every FastAPI route depends on it."""
    await authorizer.authorize(request.scope)


async def check_query(request: Request) -> None:
    """Refuse a query parameter that the matched operation does not have."""
    operation = operation_of(request.scope)
    if not operation.ignores_query:
        read_query(request.scope, operation.query_names)


async def get_key(request: Request) -> ApiKey | None:
    """Return the caller's key; None where a job is open to callers that know its id."""
    return key_of(request.scope)


KeyDep = Annotated[ApiKey | None, Depends(get_key)]
JobId = Annotated[str, JOB.field()]


async def get_job_record(request: Request, job_id: JobId, queue: QueueDep, authorizer: AuthorizerDep) -> JobRecord:
    """Return the job of the path, if the caller may use it.

    Raises:
        JobNotFound, JobGone, Forbidden: see `Authorizer.authorize_job`.
        QueueUnavailable, UnsafeRecord: the job cannot be read.
    """
    return authorizer.authorize_job(request.scope, job_id, await queue.job(job_id))


JobDep = Annotated[JobRecord, Depends(get_job_record)]


async def get_revision(if_match: Annotated[str, IF_MATCH.field()] = "") -> str:
    """Return the revision that the function must still have; "*" for any, empty without If-Match.

    Raises:
        CallerError: If-Match is not a single ETag.
    """
    return read_if_match(if_match)


RevisionDep = Annotated[str, Depends(get_revision)]
