"""Bind handlers to operations, and refuse to start where the two differ."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from api.operations import ANY_METHOD, OPERATION_AT, Access, Operation

HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Response]])


class HandlerRoute(APIRoute):
    """A FastAPI route of an operation."""

    reads: frozenset[str] = frozenset()
    """The parameters that the handler reads from the request itself, in lower case."""


class Handlers:
    """The handlers of one module, each with the operation that it serves."""

    def __init__(self) -> None:
        self._handlers: list[tuple[Operation, Callable[..., Awaitable[Response]], frozenset[str]]] = []

    def serves(self, operation: Operation, *, reads: Iterable[str] = ()) -> Callable[[HandlerT], HandlerT]:
        """Return a decorator that binds a handler to `operation`.

        Args:
            reads: the operation's parameters that the handler reads from the request itself.
                FastAPI spends 10 to 20 µs on each one that it reads, and may read or refuse it
                differently.
        """

        def bind(handler: HandlerT) -> HandlerT:
            self._handlers.append((operation, handler, frozenset(name.lower() for name in reads)))
            return handler

        return bind

    def add_to(self, router: APIRouter) -> None:
        """Add a route for each handler, with the method and path of its operation."""
        for operation, handler, reads in self._handlers:
            # A route per method, so that scope["route"] and a 405's Allow name each one.
            for method in operation.methods:
                router.add_api_route(
                    operation.path,
                    handler,
                    methods=[method],
                    include_in_schema=False,
                    route_class_override=HandlerRoute,
                )
                cast(HandlerRoute, router.routes[-1]).reads = reads


def add_asgi_route(router: APIRouter, operation: Operation, app: ASGIApp) -> None:
    """Add a route that bypasses FastAPI's work per request."""
    methods = None if operation.method == ANY_METHOD else list(operation.methods)
    router.routes.append(Route(operation.path, app, methods=methods, name=operation.summary))


def check_routes(router: APIRouter, authorize: Callable[..., Any], fallback: ASGIApp) -> None:
    """Hold the routes and the operation table together.

    Args:
        authorize: the dependency that every route of FastAPI's must have.
        fallback: the application that serves what no route matches.

    Raises:
        RuntimeError: a route has no operation, and so no access; an operation has no route; a
            route declares other parameters than its operation; a route is not authorized.
        TypeError: a route is of a kind that the table cannot name.
    """
    served: set[tuple[str, str]] = set()
    for route in router.routes:
        if not isinstance(route, Route):
            raise TypeError(f"{route!r} has no method and path by which the operation table could name it")
        for method in sorted(route.methods or {ANY_METHOD}):
            operation = OPERATION_AT.get((method, route.path))
            where = f"{method} {route.path}"
            if operation is None:
                raise RuntimeError(f"{where} has no operation: add one with its access to api/operations/")
            if (method, route.path) in served:
                raise RuntimeError(f"{where} has two routes: remove one")
            served.add((method, route.path))
            _check_route(where, route, operation, authorize)
    for key, operation in OPERATION_AT.items():
        if operation.is_fallback:
            if router.default != fallback:
                raise RuntimeError(f"{' '.join(key)} is not served: make it the router's default (api/app.py)")
        elif key not in served:
            raise RuntimeError(f"{' '.join(key)} has no route: bind a handler to it, or remove the operation")


def _check_route(where: str, route: Route, operation: Operation, authorize: Callable[..., Any]) -> None:
    if not isinstance(route, APIRoute):
        # A plain ASGI application has no dependencies: it has to call authorize_call itself.
        if operation.access is not Access.CALL:
            raise RuntimeError(f"{where} is not authorized: only an operation with Access.CALL may be an ASGI route")
        return
    if operation.access is Access.CALL or all(part.call is not authorize for part in route.dependant.dependencies):
        raise RuntimeError(f"{where} is not authorized: its access is {operation.access}")
    declared = dict(_declared_parameters(where, route.dependant))
    expected: dict[tuple[str, str], str] = {
        (one.where, one.name.lower()): _constraints(one.field()) for one in operation.parameters
    }
    reads = route.reads if isinstance(route, HandlerRoute) else frozenset()
    read = {key for key in expected if key[1] in reads}
    if reads != {name for _, name in read}:
        raise RuntimeError(f"{where}: the handler reads what its operation does not have: {sorted(reads)}")
    if declared.keys() | read != expected.keys() or declared.keys() & read:
        raise RuntimeError(
            f"{where}: the handler and its operation differ in {sorted(declared.keys() ^ (expected.keys() - read))}"
        )
    for key, constraints in declared.items():
        if expected[key] != constraints:
            raise RuntimeError(f"{where}: {key} has {constraints} in the handler, {expected[key]} in the operation")


def _declared_parameters(where: str, dependant: Dependant) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield location, name and limits of each parameter of a handler and of its dependencies.

    Raises:
        RuntimeError: FastAPI would read the body (see docs/decisions/0014) or a cookie.
    """
    if dependant.cookie_params or dependant.body_params:
        raise RuntimeError(f"{where}: the handler declares a body or a cookie, which no operation has")
    for location, fields in (
        ("path", dependant.path_params),
        ("query", dependant.query_params),
        ("header", dependant.header_params),
    ):
        for field in fields:
            yield (location, field.alias.lower()), _constraints(field.field_info)
    for dependency in dependant.dependencies:
        yield from _declared_parameters(where, dependency)


def _constraints(field: Any) -> str:  # noqa: ANN401 - a FieldInfo of pydantic's, however FastAPI wraps it
    return ", ".join(sorted(map(repr, field.metadata)))
