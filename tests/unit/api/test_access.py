"""Every route, asked by every kind of stranger: nothing opens by being forgotten."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from api.auth import ACCESS, Access
from api.main import Api
from sandlot.jobs import new_job_id
from sandlot.keys import KeyStore, Scope, new_token
from sandlot.models import Invocation

ALL_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")


def routes_of(api: Api) -> Iterator[tuple[str, str]]:
    for route in api.app.router.routes:
        assert isinstance(route, Route)
        for method in route.methods or ("ANY",):
            yield method, route.path


def concrete(path: str, name: str, job_id: str = "nobody") -> str:
    return path.replace("{name}", name).replace("{job_id}", job_id).replace("{path:path}", "a/b")


def test_the_table_and_the_routes_are_the_same(api: Api) -> None:
    assert {*routes_of(api), ("ANY", "/{name}")} == set(ACCESS)


@pytest.mark.parametrize(("method", "path"), ACCESS)
async def test_without_a_key_only_what_is_open_answers(anyone: httpx.AsyncClient, method: str, path: str) -> None:
    reply = await anyone.request("POST" if method == "ANY" else method, concrete(path, "secret"))
    if ACCESS[method, path] is Access.OPEN:
        assert reply.status_code == 200
    elif ACCESS[method, path] is Access.JOB:
        assert reply.status_code == 404  # the same as for a job that never was
    else:
        assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
        assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("token", ["sk_nonsense", "sk_0123456789abcdef." + "a" * 43])
@pytest.mark.parametrize(("method", "path"), [route for route, access in ACCESS.items() if access is not Access.OPEN])
async def test_an_unknown_key_opens_nothing_not_even_what_is_public(
    anyone: httpx.AsyncClient, method: str, path: str, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}"}
    reply = await anyone.request("POST" if method == "ANY" else method, concrete(path, "hello"), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("scope", [Scope.INVOKE, Scope.READ, Scope.DEPLOY])
@pytest.mark.parametrize(
    ("method", "path"), [route for route, access in ACCESS.items() if access not in (Access.OPEN, Access.JOB)]
)
async def test_a_key_opens_what_its_scope_names(
    anyone: httpx.AsyncClient, keys: KeyStore, method: str, path: str, scope: Scope
) -> None:
    token, _ = await keys.create({scope})
    headers = {"authorization": f"Bearer {token}"}
    reply = await anyone.request("POST" if method == "ANY" else method, concrete(path, "secret"), headers=headers)
    needed = {Access.CALL: Scope.INVOKE, Access.READ: Scope.READ, Access.DEPLOY: Scope.DEPLOY}[ACCESS[method, path]]
    assert (reply.status_code == 403) == (scope is not needed), reply.text


@pytest.mark.parametrize(("method", "path"), [route for route, access in ACCESS.items() if "{name}" in route[1]])
async def test_a_key_with_a_prefix_opens_only_those_functions(
    anyone: httpx.AsyncClient, keys: KeyStore, method: str, path: str
) -> None:
    token, _ = await keys.create(set(Scope) - {Scope.ADMIN}, prefix="other")
    headers = {"authorization": f"Bearer {token}"}
    reply = await anyone.request("POST" if method == "ANY" else method, concrete(path, "secret"), headers=headers)
    assert reply.status_code == 403


async def test_a_list_shows_only_what_the_prefix_covers(anyone: httpx.AsyncClient, keys: KeyStore) -> None:
    token, _ = await keys.create({Scope.READ}, prefix="sec")
    reply = await anyone.get("/v1/functions", headers={"authorization": f"Bearer {token}"})
    assert [function["name"] for function in reply.json()["functions"]] == ["secret"]


@pytest.mark.parametrize("method", ALL_METHODS)
async def test_no_method_gets_past_the_table(anyone: httpx.AsyncClient, method: str) -> None:
    for path in {path for _, path in ACCESS if "/fn" not in path and path != "/{name}"}:
        if (method, path) in ACCESS:
            continue
        reply = await anyone.request(method, concrete(path, "secret"))
        assert reply.status_code == 405
        assert set(reply.headers["allow"].split(", ")) == {allowed for allowed, known in ACCESS if known == path}


async def queued_job(queue: Any, owner: str) -> str:
    job_id = new_job_id()
    await queue.submit(
        Invocation(
            job_id=job_id, function="secret", version=1, digest="d", placement="python", event=b"1",
            wall_limit_ms=1000, result_ttl_s=60, owner=owner,
        ),
        reply=False,
    )  # fmt: skip
    return job_id


JOB_ROUTES = [route for route, access in ACCESS.items() if access is Access.JOB]


@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
async def test_a_foreign_job_is_a_job_that_never_was(
    anyone: httpx.AsyncClient, keys: KeyStore, queue: Any, method: str, path: str
) -> None:
    foreign = await queued_job(queue, "somebody")
    token, _ = await keys.create({Scope.INVOKE, Scope.READ}, owner="else")
    headers = {"authorization": f"Bearer {token}"}
    replies = [
        await anyone.request(method, concrete(path, "", job_id), headers=headers) for job_id in (foreign, new_job_id())
    ]
    assert [reply.status_code for reply in replies] == [404, 404]
    details = [reply.json()["detail"].split("'")[2] for reply in replies]
    assert details[0] == details[1]
    assert (await anyone.request(method, concrete(path, "", foreign))).status_code == 404


@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
async def test_an_admin_sees_everybodys_jobs(
    admin: httpx.AsyncClient, queue: Any, hold: Any, method: str, path: str
) -> None:
    queue.ending = hold
    reply = await admin.request(method, concrete(path, "", await queued_job(queue, "somebody")))
    assert reply.status_code in (200, 202) or reply.json()["code"] == "job_unfinished"  # it was let in


@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
async def test_a_job_submitted_without_a_key_is_open_to_who_knows_its_id(
    anyone: httpx.AsyncClient, queue: Any, hold: Any, method: str, path: str
) -> None:
    queue.ending = hold
    reply = await anyone.request(method, concrete(path, "", await queued_job(queue, "")))
    assert reply.status_code in (200, 202) or reply.json()["code"] == "job_unfinished"  # it was let in


async def test_who_may_only_read_cannot_cancel(
    anyone: httpx.AsyncClient, keys: KeyStore, queue: Any, hold: Any
) -> None:
    queue.ending = hold
    job_id = await queued_job(queue, "us")
    token, _ = await keys.create({Scope.READ}, owner="us")
    headers = {"authorization": f"Bearer {token}"}
    assert (await anyone.get(f"/v1/jobs/{job_id}", headers=headers)).status_code == 200
    assert (await anyone.delete(f"/v1/jobs/{job_id}", headers=headers)).status_code == 403


async def test_a_revoked_key_opens_nothing(anyone: httpx.AsyncClient, keys: KeyStore) -> None:
    token, key = await keys.create({Scope.ADMIN})
    headers = {"authorization": f"Bearer {token}"}
    assert (await anyone.get("/v1/functions", headers=headers)).status_code == 200
    await keys.revoke(key.id)
    assert (await anyone.get("/v1/functions", headers=headers)).status_code == 401


async def test_an_expired_key_opens_nothing(anyone: httpx.AsyncClient, keys: KeyStore) -> None:
    token, _ = await keys.create({Scope.ADMIN}, lifetime_s=-1)
    assert (await anyone.get("/v1/functions", headers={"authorization": f"Bearer {token}"})).status_code == 401


async def test_a_key_is_checked_before_anything_else_is_looked_at(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get("/v1/functions?limit=nonsense")).status_code == 401
    assert (await anyone.put("/v1/functions/secret", content=b"{" * 5000)).status_code == 401


async def test_credentials_of_another_scheme_are_the_functions_own(anyone: httpx.AsyncClient) -> None:
    reply = await anyone.post("/fn/hello", headers={"authorization": "Basic dXNlcjpwYXNz"})
    assert reply.json()["headers"]["authorization"] == "Basic dXNlcjpwYXNz"


async def test_our_key_never_reaches_a_function(anyone: httpx.AsyncClient, keys: KeyStore) -> None:
    token, _ = await keys.create({Scope.INVOKE})
    reply = await anyone.post("/fn/secret", headers={"authorization": f"bearer  {token}"})
    assert reply.status_code == 401  # two blanks: not a form we take, and nothing is passed on either
    reply = await anyone.post("/fn/secret", headers={"authorization": f"BEARER {token}"})
    assert reply.status_code == 200
    assert token not in reply.text


def test_tokens_have_256_random_bits() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token().split(".")[1]) == 43
