"""Which requests leave a record, and what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from api.app import create_app
from api.middleware.audit import REFUSALS_PER_S
from api.operations import OPERATIONS, Access
from sandlot.api_keys import KeyStore, Scope
from sandlot.audit_log import AuditLog, verify
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings
from tests.unit.api.conftest import FakeQueue, FakeRegistry, FakeWatch

Open = Callable[..., httpx.AsyncClient]
SOURCE = {"source": "def handler(event, context):\n    return event\n"}


@pytest.fixture
async def open_audited(
    queue: FakeQueue, registry: FakeRegistry, keys: KeyStore, secrets: SecretStore, watch: FakeWatch, tmp_path: Path
) -> AsyncIterator[Open]:
    log = AuditLog(tmp_path / "audit.jsonl")

    def open_client(token: str, **settings: Any) -> httpx.AsyncClient:
        given = Settings(_env_file=None, **settings)
        asgi = create_app(given, queue, registry, keys, secrets, watch, audit=log).asgi
        transport = httpx.ASGITransport(asgi, client=("10.0.0.7", 1))
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(transport=transport, base_url="http://sandlot.test", headers=headers)

    yield open_client
    log.close()
    verify([tmp_path / "audit.jsonl"])


def records(folder: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]


def test_every_route_that_changes_something_is_audited() -> None:
    changing = {
        operation.path + operation.method
        for operation in OPERATIONS
        if operation.method not in ("GET", "ANY") and operation.access is not Access.CALL
    }
    audited = {operation.path + operation.method for operation in OPERATIONS if operation.audit}
    assert audited == changing
    assert len({operation.audit for operation in OPERATIONS if operation.audit}) == len(audited)


async def test_an_audited_deploy_names_key_function_and_address(
    open_audited: Open, keys: KeyStore, tmp_path: Path
) -> None:
    token, key = await keys.create({Scope.DEPLOY, Scope.READ}, owner="ci")
    async with open_audited(token) as client:
        reply = await client.put("/v1/functions/fresh", json=SOURCE, headers={"x-request-id": "mine"})
        assert reply.status_code == 201
        assert (await client.put("/v1/functions/fresh", json={"source": "nonsense ("})).status_code == 422
        await client.delete("/v1/functions/fresh")
        await client.get("/v1/functions")
    deployed, refused, deleted = records(tmp_path)
    assert {name: deployed[name] for name in ("action", "outcome", "who", "key", "function", "digest", "source", "request")} == {
        "action": "deploy", "outcome": "ok", "who": "ci", "key": key.id, "function": "fresh", "digest": reply.json()["digest"],
        "source": "10.0.0.7", "request": "mine",
    }  # fmt: skip
    assert (refused["action"], refused["outcome"]) == ("deploy", "invalid_manifest")
    assert (deleted["action"], deleted["outcome"]) == ("delete", "ok")
    assert token.split(".")[1] not in (tmp_path / "audit.jsonl").read_text()


async def test_secrets_and_aliases_are_listed_without_values(
    open_audited: Open, keys: KeyStore, tmp_path: Path
) -> None:
    token, _ = await keys.create({Scope.ADMIN})
    async with open_audited(token) as client:
        assert (await client.put("/v1/secrets/PASSWORD", json={"value": "hunter2"})).status_code == 200
        assert (await client.put("/v1/functions/hello/aliases/live", json={"version": 1})).status_code == 200
    assert [(line["action"], line["target"]) for line in records(tmp_path)] == [
        ("secret", "PASSWORD"),
        ("alias", "live"),
    ]
    assert "hunter2" not in (tmp_path / "audit.jsonl").read_text()


async def test_a_refused_caller_is_recorded_on_every_route(open_audited: Open, tmp_path: Path) -> None:
    async with open_audited("") as client:
        for method, path in (("POST", "/v1/functions/secret/invoke"), ("GET", "/fn/secret"), ("GET", "/v1/functions"), ("GET", "/secret")):  # fmt: skip
            assert (await client.request(method, path)).status_code == 401
    seen = [(line["action"], line["outcome"], line["target"]) for line in records(tmp_path)]
    assert seen[0] == ("refused", "unauthenticated", "POST /v1/functions/secret/invoke")
    assert len(seen) == 4


async def test_frequent_refusals_are_counted_instead_of_recorded(
    open_audited: Open, keys: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.middleware.audit.time.monotonic", lambda: 7.0)
    token, _ = await keys.create({Scope.ADMIN})
    async with open_audited("") as client:
        for _ in range(REFUSALS_PER_S + 3):
            await client.get("/v1/functions")
        assert len(records(tmp_path)) == REFUSALS_PER_S
        await client.delete("/v1/functions/hello", headers={"authorization": f"Bearer {token}"})
    assert [line["action"] for line in records(tmp_path)[-2:]] == ["delete", "refused"]
    assert (records(tmp_path)[-1]["outcome"], records(tmp_path)[-1]["target"]) == ("left_out", "3")


async def test_calls_are_recorded_if_asked_for_and_a_declared_proxy_is_believed(
    open_audited: Open, tmp_path: Path
) -> None:
    spoken_for = {"x-forwarded-for": "1.2.3.4, 192.0.2.9"}
    async with open_audited("", audit_invoke=True, proxies="10.0.0.0/8") as client:
        await client.post("/v1/functions/hello/invoke", headers=spoken_for)
    async with open_audited("") as client:
        await client.post("/v1/functions/hello/invoke")
        await client.get("/v1/functions", headers=spoken_for)
    called, refused = records(tmp_path)
    assert (called["action"], called["function"], called["outcome"], called["source"]) == ("invoke", "hello", "ok", "192.0.2.9")  # fmt: skip
    assert refused["source"] == "10.0.0.7", "nobody said that this is a proxy"
