"""Secrets: sealed so that Redis learns nothing and can change nothing, and masked wherever a person or a record would meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest

from sandlot.errors import CallerError, SecretNotFound, UnsafeRecord
from sandlot.models import Evidence, FunctionError, Outcome, OutcomeKind, Runtime
from sandlot.redis.keys import SECRETS
from sandlot.secret_store import VALUE_LIMIT_BYTES, SecretStore
from worker.execution import Execution
from worker.middleware import MiddlewarePool
from worker.middleware.redaction import RedactionMiddleware, masked

KEY = b"k" * 32
VALUE = 'hunter2-"é"\nsecond line'


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as opened:
        yield opened


@pytest.fixture
def secrets(redis: fakeredis.FakeAsyncRedis) -> SecretStore:
    return SecretStore(redis, KEY)


async def test_a_secret_comes_out_as_it_went_in_and_only_for_those_it_is_for(secrets: SecretStore) -> None:
    await secrets.put("PASSWORD", VALUE, "shop-")
    assert await secrets.reveal("shop-cart", ["PASSWORD"]) == {"PASSWORD": VALUE}
    with pytest.raises(SecretNotFound, match="sandlot secret set PASSWORD"):
        await secrets.reveal("blog", ["PASSWORD"])
    assert await secrets.missing("blog", ["PASSWORD", "OTHER"]) == ["PASSWORD", "OTHER"]
    assert await secrets.missing("shop-cart", ["PASSWORD", "OTHER"]) == ["OTHER"]


async def test_redis_holds_no_plain_value_and_equal_values_differ_when_sealed(
    secrets: SecretStore, redis: fakeredis.FakeAsyncRedis
) -> None:
    await secrets.put("ONE", "hunter2-hunter2")
    first = await redis.hget(SECRETS, "ONE")
    await secrets.put("ONE", "hunter2-hunter2")
    second = await redis.hget(SECRETS, "ONE")
    assert b"hunter2" not in first + second
    assert first != second


async def test_a_secret_that_was_moved_widened_or_changed_is_not_opened(
    secrets: SecretStore, redis: fakeredis.FakeAsyncRedis
) -> None:
    await secrets.put("ONE", "value one", "shop-")
    record = await redis.hget(SECRETS, "ONE")
    for name, text in (
        ("TWO", record),
        ("ONE", record.replace(b"shop-", b"")),
        ("ONE", record.replace(b'"box":"', b'"box":"AAAA')),
        ("ONE", b'{"prefix":"","updated_ms":1,"box":"*"}'),
        ("ONE", b"{}"),
    ):
        await redis.hset(SECRETS, name, text)
        with pytest.raises(UnsafeRecord):
            await secrets.reveal("shop-cart", [name])
    await redis.hset(SECRETS, "ONE", record)
    with pytest.raises(UnsafeRecord, match="set it again"):
        await SecretStore(redis, b"x" * 32).reveal("shop-cart", ["ONE"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("1A", "v"), ("A-B", "v"), ("", "v"), ("A", ""), ("A", "hunter2\0"), ("A", "hunter2" + "x" * VALUE_LIMIT_BYTES)],
)
async def test_an_invalid_variable_is_refused_without_repeating_it(secrets: SecretStore, name: str, value: str) -> None:
    with pytest.raises(CallerError) as refused:
        await secrets.put(name, value)
    assert "hunter2" not in refused.value.message


async def test_a_deleted_secret_is_gone(secrets: SecretStore) -> None:
    await secrets.put("ONE", "value")
    assert [secret.name for secret in await secrets.list_all()] == ["ONE"]
    await secrets.delete("ONE")
    for call in (secrets.delete("ONE"), secrets.describe("ONE")):
        with pytest.raises(SecretNotFound):
            await call


def test_an_outcome_has_no_secret_in_its_words() -> None:
    outcome = Outcome(
        kind=OutcomeKind.ERROR,
        result=b"",
        error=FunctionError(
            error_type="hunter2-type", error_message=f"no {VALUE!r}", stack_trace=["raise hunter2-x", "second line"]
        ),
        evidence=Evidence(detail="hunter2-x", stack=["f('hunter2-x')"]),
        logs=f"{VALUE}\nand a 1 and hunter2-x".encode(),
    )
    shown = masked(outcome, {VALUE, "hunter2-", "1"})
    assert "hunter2" not in str(shown)
    assert "second line" not in str(shown)
    assert shown.logs.endswith(b"and a 1 and ***x"), "what is too short to be a secret stays"


def test_an_outcome_of_a_function_without_secrets_is_left_as_it_is() -> None:
    outcome = Outcome(kind=OutcomeKind.OK, result=b"1")
    assert masked(outcome, ()) is outcome


class Printing:
    """An executor that has printed something."""

    slots, runtimes = 1, frozenset({Runtime.PYTHON})

    def __init__(self, output: bytes) -> None:
        self.output = output

    def start(self, execution: Execution, done: Any) -> None:
        self.done = done

    def cancel(self, job_id: str) -> bool:
        return False

    def abandon(self, job_id: str) -> bool:
        return False

    def output_of(self, job_id: str) -> bytes:
        return self.output


@pytest.mark.parametrize(
    ("secret", "said"),
    [("hunter22", b"a *** b\n"), ("first line\nsecond line", b""), ("hunter22\n", b"a *** b\n")],
)
def test_live_logs_hide_the_same_secrets_as_logs(secret: str, said: bytes) -> None:
    """Of a secret of several lines nothing is said before all of it is there, which is when the job is over."""
    redaction = RedactionMiddleware({("f", "d"): [secret]})
    pool = MiddlewarePool(Printing(b"a hunter22 b\n"), [redaction])
    assert pool.output_of("j") == b""
    pool.start(Execution("j", 1, "f", 1, "d", b"1", 1000), lambda *ended: None)
    assert pool.output_of("j") == said
