"""A Sandlot touches only data whose layout it understands, and says what to do otherwise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from sandlot.errors import SchemaMismatch
from sandlot.jobs import Queue
from sandlot.jobs.worker_queue import WorkerQueue
from sandlot.redis.connection import connect
from sandlot.redis.schema import SCHEMA, check_schema
from tests.jobs.conftest import KEY


async def open_queue(url: str) -> Any:
    return await Queue.open(url, KEY, queue_limit=10, queue_limit_per_function=10)


async def open_worker_queue(url: str) -> Any:
    return await WorkerQueue.open(url, KEY, "w", ["python"])


OPENERS = (open_queue, open_worker_queue)


@pytest.mark.parametrize("opener", OPENERS)
async def test_the_first_process_writes_the_schema_number_and_the_next_ones_check_it(
    url: str, raw: redis.Redis, opener: Callable[[str], Awaitable[Any]]
) -> None:
    for _ in range(2):
        await (await opener(url)).close()
        assert raw.get("sandlot:schema") == str(SCHEMA).encode()


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("found", "says"),
    [
        (str(SCHEMA + 1), "Start the Sandlot that wrote it or a newer one"),
        ("0", "Let the Sandlot that wrote it finish its jobs"),
        ("yes", "Another program wrote it"),
    ],
)
async def test_neither_api_nor_worker_opens_what_it_does_not_understand(
    url: str, raw: redis.Redis, opener: Callable[[str], Awaitable[Any]], found: str, says: str
) -> None:
    raw.set("sandlot:schema", found)
    with pytest.raises(SchemaMismatch, match=says) as caught:
        await opener(url)
    assert f"{SCHEMA}" in caught.value.message
    assert raw.dbsize() == 1


async def test_a_value_that_is_not_a_number_is_reported(url: str, raw: redis.Redis) -> None:
    raw.hset("sandlot:schema", "a", "b")
    client = connect(url)
    try:
        with pytest.raises(SchemaMismatch, match="sandlot:schema: WRONGTYPE"):
            await check_schema(client.execute_command)
    finally:
        await client.aclose()


async def test_a_full_redis_that_has_the_number_can_be_opened(url: str, raw: redis.Redis) -> None:
    await (await open_queue(url)).close()
    raw.config_set("maxmemory", 1)
    try:
        await (await open_queue(url)).close()
    finally:
        raw.config_set("maxmemory", 0)
