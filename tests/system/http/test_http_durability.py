"""`X-Durability` on every reply that acknowledges a job, at each durability setting of Redis."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis

from tests.system.http.conftest import Stack
from tests.waiting import until

Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def valkey(stack: Stack) -> Iterator[redis.Redis]:
    """The shared one; left as it was found."""
    with redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"], decode_responses=True) as client:
        before = client.config_get("append*")
        yield client
        for name in ("appendonly", "appendfsync"):
            client.config_set(name, before[name])


def every_kind(client: httpx.Client) -> dict[str, httpx.Response]:
    async_reply = client.post("/v1/functions/echo/invoke?async=true", content=b"1")
    client.get(async_reply.headers["location"], params={"wait": 20})
    return {
        "sync": client.post("/v1/functions/echo/invoke", content=b"1"),
        "async": async_reply,
        "batch": client.post("/v1/functions/echo/invoke-batch", content=b"[1, 2]"),
        "gateway": client.get("/fn/echo"),
        "gateway, async": client.get("/fn/echo", headers={"prefer": "respond-async"}),
        "retry": client.post(async_reply.headers["location"] + "/retry"),
    }


def test_every_acknowledgement_states_the_durability_that_redis_gives(
    stack: Stack, anyone: httpx.Client, valkey: redis.Redis
) -> None:
    api, url = stack.start_api(SANDLOT_REDIS_URL=stack.environment["SANDLOT_REDIS_URL"])

    def shown(client: httpx.Client) -> Any:
        return client.post("/v1/functions/echo/invoke", content=b"1").headers["x-durability"]

    with stack.client(key=False, url=url) as asking:
        # Per setting: an API whose Redis user may read it, and one with the rights of
        # `sandlot redis-acl`.
        for settings, asked, proved in (
            ({"appendonly": "no"}, "none", "none"),
            ({"appendonly": "yes", "appendfsync": "everysec"}, "everysec", "everysec"),
            ({"appendfsync": "always"}, "always", "everysec"),
            ({"appendfsync": "no"}, "none", "none"),
        ):
            for name, value in settings.items():
                valkey.config_set(name, value)
            for client, expected in ((asking, asked), (anyone, proved)):
                until(lambda client=client, expected=expected: shown(client) == expected)
                replies = every_kind(client)
                assert {kind: reply.headers["x-durability"] for kind, reply in replies.items()} == dict.fromkeys(
                    replies, expected
                )
                assert all(reply.is_success for reply in replies.values())
    api.stop()


def test_a_function_cannot_set_the_durability_header(anyone: httpx.Client) -> None:
    reply = anyone.post("/fn/responds", json={"statusCode": 200, "headers": {"x-durability": "always"}})
    assert reply.headers.get_list("x-durability") == ["none"]
