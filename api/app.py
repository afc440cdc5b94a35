"""The composition root of the application: makes its parts and puts them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from api.auth import Authorizer
from api.dependencies import Services, authorize
from api.http.problems import problem_of
from api.invocations import Invocations
from api.metrics import Metrics, RequestMetrics
from api.middleware.audit import RequestAudit
from api.middleware.request import RequestMiddleware
from api.middleware.tracing import RequestTracing
from api.operations.calls import CALL_URL, CALL_URL_BELOW, INVOKE, INVOKE_BATCH
from api.responses import response_of
from api.routes import dead_letters, docs, functions, jobs, secrets, system, versions
from api.routes.gateway import Gateway
from api.routes.invoke import Batch, Invoke
from api.routing import add_asgi_route, check_routes
from sandlot.api_keys import KeyStore
from sandlot.audit_log import AuditLog
from sandlot.errors import CallerError, InvalidSettings, MethodNotAllowed, RouteNotFound, SandlotError
from sandlot.functions import Registry
from sandlot.jobs import Queue
from sandlot.redis.connection import connect
from sandlot.redis.durability import DurabilityWatch
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings
from sandlot.tracing import open_tracing
from sandlot.transport_security import require_safe_redis

_MODULES: Final = (jobs, dead_letters, functions, versions, secrets, system, docs)
"""The modules with FastAPI handlers."""


class Api(msgspec.Struct, frozen=True):
    """The application, and the parts that its server uses."""

    asgi: RequestMiddleware
    app: FastAPI
    invocations: Invocations
    keys: KeyStore
    metrics: Metrics


def create_app(
    settings: Settings,
    queue: Queue,
    registry: Registry,
    keys: KeyStore,
    secret_store: SecretStore,
    watch: DurabilityWatch,
    tracing: RequestTracing | None = None,
    audit: AuditLog | None = None,
) -> Api:
    """Put the application together from open parts, which the caller closes.

    Raises:
        RuntimeError, TypeError: routes and operation table differ (see `check_routes`).
    """
    authorizer = Authorizer(keys, registry, queue.was_issued, settings.read_metrics_token())
    invocations = Invocations(queue, settings, watch)
    requests = RequestMetrics(settings.metrics_functions)
    metrics = Metrics(queue, invocations, requests)
    app = FastAPI(
        title="Sandlot",
        version=version("sandlot"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # docs.py writes the document (docs/decisions/0014)
        redirect_slashes=False,
        dependencies=[Depends(authorize)],
        # FastAPI could export telemetry because of an environment variable; Sandlot has its own.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.services = Services(settings, authorizer, invocations, metrics, queue, registry, secret_store)
    invoke = Invoke(authorizer, invocations, settings)
    gateway = Gateway(authorizer, invocations, settings)
    _add_routes(app, invoke, Batch(authorizer, invocations, settings), gateway)
    _answer_with_problems(app)
    return Api(
        RequestMiddleware(
            app,
            invoke,
            gateway,
            requests,
            RequestAudit(audit, settings),
            tracing,
            access_log=settings.access_log,
        ),
        app,
        invocations,
        keys,
        metrics,
    )


def _add_routes(app: FastAPI, invoke: Invoke, batch: Batch, gateway: Gateway) -> None:
    add_asgi_route(app.router, INVOKE, invoke)
    add_asgi_route(app.router, INVOKE_BATCH, batch)
    for module in _MODULES:
        module.handlers.add_to(app.router)
    add_asgi_route(app.router, CALL_URL, gateway)
    add_asgi_route(app.router, CALL_URL_BELOW, gateway)
    app.router.default = gateway.bare
    check_routes(app.router, authorize, gateway.bare)


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[Api]:
    """Open everything that the application needs; close it at the end of the block.

    Raises:
        QueueUnavailable: Redis does not answer.
        InvalidSettings: the signing key or the API key cannot be read, or the connection to Redis
            would not be encrypted although it has to be.
    """
    url = require_safe_redis(settings)
    if not url:
        raise InvalidSettings(
            "SANDLOT_REDIS_URL is not set: set it to the address of Redis or Valkey (redis://host:6379/0), or use "
            "sandlot up, which brings one"
        )
    signing_key = settings.read_signing_key()
    async with AsyncExitStack() as stack:
        queue = await Queue.open(
            url,
            signing_key,
            queue_limit=settings.queue_limit,
            queue_limit_per_function=settings.queue_limit_per_function,
        )
        stack.push_async_callback(queue.close)
        watch = await DurabilityWatch.open(url)
        stack.push_async_callback(watch.close)
        redis = connect(url)
        stack.push_async_callback(redis.aclose)
        registry = await stack.enter_async_context(Registry(redis, signing_key, versions_kept=settings.versions_kept))
        keys = KeyStore(redis, signing_key)
        await _enrol_key(settings, keys)
        tracing = open_tracing(settings, "api")
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        request_tracing = None if tracing is None else RequestTracing(tracing)
        audit = None
        if settings.audit_file is not None:
            audit = AuditLog(settings.audit_file)
            stack.callback(audit.close)
        yield create_app(
            settings, queue, registry, keys, SecretStore(redis, signing_key), watch, request_tracing, audit
        )


async def _enrol_key(settings: Settings, keys: KeyStore) -> None:
    """Make the key from the settings an admin key: its owner controls this process anyway."""
    token = settings.read_key()
    if not token:
        return
    try:
        await keys.enrol(token, note="the key this API was started with")
    except CallerError as error:
        raise InvalidSettings(f"{error.message} (SANDLOT_KEY, SANDLOT_KEY_FILE)") from error


def _answer_with_problems(app: FastAPI) -> None:
    def answer(request: Request, error: SandlotError) -> Response:
        return response_of(problem_of(error, instance=request.url.path))

    @app.exception_handler(SandlotError)
    async def sandlot_error(request: Request, error: SandlotError) -> Response:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            # Starlette names only the methods of the first of several routes at a path.
            routes = [route for route in app.router.routes if isinstance(route, Route)]
            partial = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
            allow = [method for route in partial for method in sorted(route.methods or ())]
            methods = ", ".join(allow)
            return answer(
                request,
                MethodNotAllowed(
                    f"{request.method} is not allowed for {request.url.path}; it accepts {methods}", allow=allow
                ),
            )
        if error.status_code == 404:
            return answer(request, RouteNotFound(f"nothing is at {request.url.path[:200]}; /docs lists the paths"))
        return answer(request, CallerError(str(error.detail)))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        """Leave the reply to RequestMiddleware: Starlette's own is a line of plain text."""
        raise error

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return answer(request, CallerError(f"{where}: {first['msg']}"))
