"""The composition root of the API's application: which parts there are and how they are put together.

Knows: every part by name. Does not know: settings' origin, sockets, processes (see `api.__main__`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from api import metrics
from api.auth import Authorizer, admitted, check_table
from api.http.problems import problem_of
from api.invocations import Invocations
from api.metrics import ApiCounts
from api.middleware.audit import Audit
from api.middleware.request import RequestMiddleware
from api.middleware.tracing import RequestTraces
from api.responses import response_of
from api.routes import dead_letters, docs, functions, jobs, system, versions
from api.routes.gateway import Gateway
from api.routes.invoke import Batch, Invoke
from api.routes.secrets import add_routes as add_secret_routes
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


class Api(msgspec.Struct, frozen=True):
    """The application, and what whoever serves it has to call when it stops."""

    asgi: RequestMiddleware
    app: FastAPI
    calls: Invocations
    keys: KeyStore
    metrics: metrics.Metrics


def create_app(
    settings: Settings,
    queue: Queue,
    registry: Registry,
    keys: KeyStore,
    secrets: SecretStore,
    watch: DurabilityWatch,
    traces: RequestTraces | None = None,
    audit: AuditLog | None = None,
) -> Api:
    """Put the parts together; they are open, and whoever opened them closes them."""
    door = Authorizer(keys, registry, queue.was_issued, settings.read_metrics_token())
    calls = Invocations(queue, settings, watch)
    counts = ApiCounts(settings.metrics_functions)
    invoke = Invoke(door, calls, settings)
    gateway = Gateway(door, calls, settings)
    app = FastAPI(
        title="Sandlot",
        version=version("sandlot"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(admitted)],
        # Nobody asked for spans of ours, and nothing is to be sent anywhere because of an environment variable.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.door = door
    app.router.routes.append(Route("/v1/functions/{name}/invoke", invoke, methods=["POST"], name="invoke"))
    app.router.routes.append(
        Route("/v1/functions/{name}/invoke-batch", Batch(door, calls, settings), methods=["POST"], name="invoke_batch")
    )
    jobs.add_routes(app.router, queue, calls, door, settings)
    dead_letters.add_routes(app.router, queue, calls, door)
    functions.add_routes(app.router, registry, queue, secrets, settings)
    versions.add_routes(app.router, registry, queue)
    add_secret_routes(app.router, secrets)
    system.add_health_routes(app.router, queue)
    measured = metrics.Metrics(queue, calls, counts)
    system.add_status_routes(app.router, queue)
    metrics.add_routes(app.router, measured)
    docs.add_routes(app.router, app.version)
    app.router.routes.append(Route("/fn/{name}", gateway, name="gateway"))
    app.router.routes.append(Route("/fn/{name}/{path:path}", gateway, name="gateway_path"))
    app.router.default = gateway.bare
    check_table(app.router.routes)
    _answer_with_problems(app)
    return Api(
        RequestMiddleware(app, invoke, gateway, counts, Audit(audit, settings), traces, access_log=settings.access_log),
        app,
        calls,
        keys,
        measured,
    )


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[Api]:
    """Everything the application needs, open.

    Raises:
        QueueUnavailable: Redis does not answer.
        InvalidSettings: the signing key or the API key cannot be read, or Redis would be spoken to in the clear.
    """
    url = require_safe_redis(settings)
    if not url:
        raise InvalidSettings(
            "SANDLOT_REDIS_URL is not set: say where Redis or Valkey is (redis://host:6379/0), or use sandlot up, which brings one"
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
        traces = None if tracing is None else RequestTraces(tracing)
        audit = None
        if settings.audit_file is not None:
            audit = AuditLog(settings.audit_file)
            stack.callback(audit.close)
        yield create_app(settings, queue, registry, keys, SecretStore(redis, signing_key), watch, traces, audit)


async def _enrol_key(settings: Settings, keys: KeyStore) -> None:
    """Make the key that this API was started with an admin key: whoever starts it may do everything anyway."""
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
    async def ours(request: Request, error: SandlotError) -> Response:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            # Starlette names the methods of the first route at that path, and there may be several.
            routes = [route for route in app.router.routes if isinstance(route, Route)]
            partial = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
            allow = [method for route in partial for method in sorted(route.methods or ())]
            takes = ", ".join(allow)
            return answer(
                request,
                MethodNotAllowed(f"{request.method} is not for {request.url.path}; it takes {takes}", allow=allow),
            )
        if error.status_code == 404:
            return answer(request, RouteNotFound(f"nothing is at {request.url.path[:200]}; /docs lists what there is"))
        return answer(request, CallerError(str(error.detail)))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        """Left to the edge, which answers every bug alike: Starlette's own answer to one is a line of plain text."""
        raise error

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return answer(request, CallerError(f"{where}: {first['msg']}"))
