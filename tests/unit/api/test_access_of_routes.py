"""Every route of the application, asked by every kind of stranger: nothing opens by being forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Query
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from api.app import Api
from api.dependencies import authorize
from api.operations import OPERATION_AT, OPERATIONS, Access
from api.routing import Handlers, check_routes
from sandlot.api_keys import KeyStore, Scope, new_token
from sandlot.jobs import new_job_id
from sandlot.models import Invocation
from sandlot.secret_store import SecretStore
from tests.unit.api.conftest import FakeQueue, FakeRegistry

ACCESS = {key: operation.access for key, operation in OPERATION_AT.items()}
JOB = (Access.JOB, Access.CHANGE_JOB)
BARE = ("ANY", "/{name}")
"""What no route takes is a function's name: the router's default, and no route itself."""
DOCUMENTED = {(shown.method, shown.path): {answer.status for answer in shown.answers} for shown in OPERATIONS}
HIDDEN = "hidden"
"""A function, a job of it and a secret for it: what nobody here may know of."""
WRONG = {
    Access.CALL: {Scope.READ, Scope.DEPLOY},
    Access.JOB: {Scope.DEPLOY},
    Access.CHANGE_JOB: {Scope.DEPLOY, Scope.READ},
    Access.JOBS: {Scope.DEPLOY},
    Access.READ: {Scope.INVOKE, Scope.DEPLOY},
    Access.DEPLOY: {Scope.INVOKE, Scope.READ},
}
"""Scopes that do not open it, although there are two of them."""


@pytest.fixture(autouse=True)
def something_to_find(registry: FakeRegistry) -> None:
    registry.add(HIDDEN)


def walk(api: Api) -> Iterator[tuple[str, str, Access]]:
    """Each route the application has, and its policy; a route without one fails here."""
    for route in api.app.router.routes:
        assert isinstance(route, Route), f"{route!r} is not walked: teach the walk what it is"
        for method in route.methods or ("ANY",):
            yield method, route.path, ACCESS[method, route.path]
    yield *BARE, ACCESS[BARE]


def concrete(path: str, *, job_id: str) -> str:
    for name, value in (("{name}", HIDDEN), ("{job_id}", job_id), ("{path:path}", "a/b"), ("{version}", "1")):
        path = path.replace(name, value)
    return re.sub(r"\{[^}]*\}", "x", path)


async def queued_job(queue: FakeQueue, owner: str) -> str:
    queue.ending = lambda invocation: None
    job_id = new_job_id()
    await queue.submit(
        Invocation(
            job_id=job_id, function=HIDDEN, version=1, digest="d", placement="python", event=b"1",
            wall_limit_ms=1000, result_ttl_s=60, owner=owner,
        ),
        reply=False,
    )  # fmt: skip
    return job_id


async def ask(client: httpx.AsyncClient, method: str, path: str, token: str, job_id: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    address = concrete(path, job_id=job_id)
    reply = await client.request("POST" if method == "ANY" else method, address, headers=headers)
    documented = DOCUMENTED.get((method, path.partition("?")[0]))
    assert documented is None or reply.status_code in documented, (method, path, reply.text)
    if (method, path) in ACCESS and method == "HEAD":  # which has no body: what GET says is what it says
        got = await client.get(address, headers=headers)
        assert (reply.status_code, reply.content) == (got.status_code, b""), path
        return got
    return reply


def check(api: Api) -> None:
    check_routes(api.app.router, authorize, api.app.router.default)


def replace_handler(api: Api, method: str, path: str, handler: Any, reads: tuple[str, ...] = ()) -> None:
    """Bind another handler to the operation at this method and path."""
    routes = api.app.router.routes
    routes[:] = [
        route
        for route in routes
        if not (isinstance(route, Route) and route.path == path and method in (route.methods or ()))
    ]
    handlers = Handlers()
    handlers.serves(OPERATION_AT[method, path], reads=reads)(handler)
    handlers.add_to(api.app.router)


async def answer() -> Response:
    return Response()


def test_routes_and_operations_are_the_same_at_the_start(api: Api) -> None:
    check(api)
    assert {(method, path) for method, path, _ in walk(api)} == set(ACCESS)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_route_without_an_operation_keeps_the_api_from_starting(api: Api, method: str) -> None:
    api.app.router.routes.append(Route("/v1/new", lambda request: None, methods=[method]))
    with pytest.raises(RuntimeError, match=rf"{method} /v1/new has no operation"):
        check(api)


def test_a_fastapi_route_without_an_operation_keeps_the_api_from_starting(api: Api) -> None:
    api.app.get("/v1/new")(answer)
    with pytest.raises(RuntimeError, match=r"GET /v1/new has no operation"):
        check(api)


def test_a_route_that_the_table_cannot_name_keeps_the_api_from_starting(api: Api) -> None:
    api.app.router.routes.append(Mount("/v1/new", answer))
    with pytest.raises(TypeError, match="Mount"):
        check(api)


@pytest.mark.parametrize("key", [key for key in OPERATION_AT if key != BARE], ids="_".join)
def test_an_operation_without_a_route_keeps_the_api_from_starting(api: Api, key: tuple[str, str]) -> None:
    method, path = key
    api.app.router.routes[:] = [
        route
        for route in api.app.router.routes
        if not (isinstance(route, Route) and route.path == path and method in (route.methods or {"ANY"}))
    ]
    with pytest.raises(RuntimeError, match=rf"{method} {re.escape(path)} has no route"):
        check(api)


def test_a_fallback_that_is_not_served_keeps_the_api_from_starting(api: Api) -> None:
    served, api.app.router.default = api.app.router.default, answer  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"ANY /\{name\} is not served"):
        check_routes(api.app.router, authorize, served)


async def no_cursor(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    return Response()


async def another_parameter(
    sort: str = "", cursor: Annotated[str, Query(max_length=64)] = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Response:
    return Response()


async def another_limit(
    cursor: Annotated[str, Query(max_length=64)] = "", limit: Annotated[int, Query(ge=1, le=5000)] = 100
) -> Response:
    return Response()


async def a_body(body: dict[str, str]) -> Response:
    return Response()


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (no_cursor, "differ in .*cursor"),
        (another_parameter, "differ in .*sort"),
        (another_limit, "limit.*5000.*1000"),
        (a_body, "declares a body"),
    ],
)
def test_a_handler_with_other_parameters_than_its_operation_keeps_the_api_from_starting(
    api: Api, handler: Any, message: str
) -> None:
    replace_handler(api, "GET", "/v1/functions", handler)
    with pytest.raises(RuntimeError, match=f"GET /v1/functions.*{message}"):
        check(api)


@pytest.mark.parametrize(
    ("reads", "message"),
    [(("Prefer", "limit", "cursor"), "prefer"), (("limit",), "differ in .*cursor"), (("limit", "cursor"), "")],
)
def test_parameters_that_a_handler_reads_itself_are_those_of_its_operation(
    api: Api, reads: tuple[str, ...], message: str
) -> None:
    replace_handler(api, "GET", "/v1/functions", answer, reads)
    if not message:
        check(api)
        return
    with pytest.raises(RuntimeError, match=f"GET /v1/functions.*{message}"):
        check(api)


def test_a_route_that_is_not_authorized_keeps_the_api_from_starting(api: Api) -> None:
    routes = api.app.router.routes
    routes[:] = [route for route in routes if not (isinstance(route, Route) and route.path == "/v1/secrets")]
    routes.append(Route("/v1/secrets", lambda request: None, methods=["GET"]))
    with pytest.raises(RuntimeError, match=r"GET /v1/secrets is not authorized"):
        check(api)
    routes[-1] = APIRoute("/v1/secrets", answer, methods=["GET"])
    with pytest.raises(RuntimeError, match=r"GET /v1/secrets is not authorized"):
        check(api)


def test_a_route_that_is_there_twice_keeps_the_api_from_starting(api: Api) -> None:
    handlers = Handlers()
    handlers.serves(OPERATION_AT["GET", "/healthz"])(answer)
    handlers.add_to(api.app.router)
    with pytest.raises(RuntimeError, match=r"GET /healthz has two routes"):
        check(api)


async def test_without_a_key_only_what_is_open_answers(api: Api, anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    job_id = await queued_job(queue, "somebody")
    for method, path, access in walk(api):
        reply = await ask(anyone, method, path, "", job_id)
        expected = {Access.OPEN: 200, Access.JOB: 404, Access.CHANGE_JOB: 404}.get(access, 401)
        assert reply.status_code == expected, (method, path, reply.text)
        assert expected != 401 or reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("kind", ["not a key", "unknown", "another secret", "expired", "revoked"])
async def test_a_key_that_is_not_valid_opens_nothing_not_even_what_is_public(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue, kind: str
) -> None:
    token, key = await keys.create({Scope.ADMIN}, owner="us", lifetime_s=-1 if kind == "expired" else 0)
    if kind == "revoked":
        await keys.revoke(key.id)
    made_up = {"not a key": "sk_nonsense", "unknown": new_token()}
    made_up["another secret"] = f"{token.split('.')[0]}.{new_token().split('.')[1]}"
    details = set()
    for method, path, access in walk(api):
        reply = await ask(anyone, method, path, made_up.get(kind, token), await queued_job(queue, "us"))
        if access is not Access.OPEN:
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated"), (method, path)
            details.add(reply.json()["detail"])
    assert details == {"this API key is not valid: unknown, expired or revoked"}  # which of these is not told


async def test_a_valid_key_with_the_wrong_scope_opens_nothing(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue
) -> None:
    for method, path, access in walk(api):
        if access is not Access.OPEN:
            token, _ = await keys.create(WRONG[access], owner="us")
            reply = await ask(anyone, method, path, token, await queued_job(queue, "us"))
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), (method, path, reply.text)


async def test_the_scope_that_a_route_names_opens_it(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue
) -> None:
    needed = {
        Access.CALL: Scope.INVOKE,
        Access.JOB: Scope.READ,
        Access.CHANGE_JOB: Scope.INVOKE,
        Access.JOBS: Scope.READ,
        Access.READ: Scope.READ,
        Access.DEPLOY: Scope.DEPLOY,
    }
    for method, path, access in walk(api):
        if access is not Access.OPEN:
            token, _ = await keys.create({needed[access]}, owner="us")
            queue.ending = lambda invocation: None
            address = path if access is not Access.CALL else path + "?async=true"
            reply = await ask(anyone, method, address, token, await queued_job(queue, "us"))
            assert reply.status_code not in (401, 403), (method, path, reply.text)


async def test_a_key_for_other_functions_opens_nothing_of_this_one(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue
) -> None:
    token, _ = await keys.create(set(Scope) - {Scope.ADMIN}, prefix="other", owner="us")
    for method, path, access in walk(api):
        if access is not Access.OPEN and ("{name}" in path or "{job_id}" in path):
            reply = await ask(anyone, method, path, token, await queued_job(queue, "us"))
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), (method, path, reply.text)


async def test_a_limited_key_sees_nothing_of_other_functions_in_lists(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue, secrets: SecretStore
) -> None:
    token, _ = await keys.create(set(Scope) - {Scope.ADMIN}, prefix="other", owner="us")
    await secrets.put("FOUND", "value", HIDDEN)
    job_id = await queued_job(queue, "us")
    for method, path, access in walk(api):
        if method == "GET" and access is not Access.OPEN and "{" not in path:
            reply = await ask(anyone, method, path, token, job_id)
            assert not re.search(rf"{HIDDEN}|FOUND|{job_id}", reply.text), (method, path, reply.text)


async def test_a_job_of_another_owner_is_a_job_that_never_was(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue
) -> None:
    token, _ = await keys.create(set(Scope) - {Scope.ADMIN}, owner="else")
    for method, path, access in walk(api):
        if access in JOB:
            ids = (await queued_job(queue, "us"), new_job_id())
            replies = [await ask(anyone, method, path, token, job_id) for job_id in ids]
            assert [reply.status_code for reply in replies] == [404, 404], (method, path)
            texts = {reply.text.replace(job_id, "ID") for reply, job_id in zip(replies, ids, strict=True)}
            assert len(texts) == 1, (method, path, texts)


@pytest.mark.parametrize(("owner", "admin"), [("somebody", True), ("", False)])
async def test_an_admin_sees_every_job_and_an_id_opens_a_job_without_an_owner(
    api: Api, anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue, owner: str, admin: bool
) -> None:
    token = (await keys.create({Scope.ADMIN}, owner="else"))[0] if admin else ""
    # Admitted, and then told what is in the way; without a key a private function cannot be called, by no route.
    met = ("job_unfinished", "version_not_found", *(() if admin else ("unauthenticated",)))
    for method, path, access in walk(api):
        if access in JOB:
            reply = await ask(anyone, method, path, token, await queued_job(queue, owner))
            assert reply.status_code in (200, 202, 204) or reply.json()["code"] in met, (method, path)


async def test_a_method_that_a_path_does_not_take_is_refused_with_those_it_takes(
    api: Api, anyone: httpx.AsyncClient
) -> None:
    takes: dict[str, set[str]] = {}
    for method, path, _ in walk(api):
        takes.setdefault(path, set()).add(method)
    for path, methods in takes.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"} - methods if "ANY" not in methods else ():
            reply = await ask(anyone, method, path, "", "nobody")
            assert reply.status_code == 405, (method, path)
            assert set(reply.headers["allow"].split(", ")) == methods
