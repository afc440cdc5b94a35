"""What a key opens, beyond what is the same for every route."""

import httpx

from sandlot.api_keys import KeyStore, Scope, new_token
from sandlot.jobs import new_job_id
from sandlot.models import Invocation
from tests.unit.api.conftest import Ending, FakeQueue


async def queued_job(queue: FakeQueue, owner: str) -> str:
    job_id = new_job_id()
    await queue.submit(
        Invocation(
            job_id=job_id, function="secret", version=1, digest="d", placement="python", event=b"1",
            wall_limit_ms=1000, result_ttl_s=60, owner=owner,
        ),
        reply=False,
    )  # fmt: skip
    return job_id


async def test_a_list_shows_only_what_the_prefix_covers(anyone: httpx.AsyncClient, keys: KeyStore) -> None:
    token, _ = await keys.create({Scope.READ}, prefix="sec")
    reply = await anyone.get("/v1/functions", headers={"authorization": f"Bearer {token}"})
    assert [function["name"] for function in reply.json()["functions"]] == ["secret"]


async def test_a_read_key_cannot_cancel(
    anyone: httpx.AsyncClient, keys: KeyStore, queue: FakeQueue, hold: Ending
) -> None:
    queue.ending = hold
    job_id = await queued_job(queue, "us")
    token, _ = await keys.create({Scope.READ}, owner="us")
    headers = {"authorization": f"Bearer {token}"}
    assert (await anyone.get(f"/v1/jobs/{job_id}", headers=headers)).status_code == 200
    assert (await anyone.delete(f"/v1/jobs/{job_id}", headers=headers)).status_code == 403


async def test_the_key_is_checked_before_everything_else(anyone: httpx.AsyncClient) -> None:
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
