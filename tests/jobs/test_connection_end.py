"""Tasks that call redis-py end, although it may swallow what should end them."""

from __future__ import annotations

import asyncio

import pytest

from sandlot.redis.connection import cancellable, connect, end_task
from tests.waiting import HANG_S


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)  # it begins
    async with asyncio.timeout(HANG_S):
        await end_task(task)
    assert (task.cancelled(), swallowed) == (True, 3)


async def test_no_task_and_one_that_is_over_are_left_alone() -> None:
    await end_task(None)
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await end_task(task)
    assert not task.cancelled()


async def test_a_coroutine_waiting_for_redis_is_cancelled_at_any_moment(url: str) -> None:
    """At every turn of the loop in which a call is under way; redis-py itself loses it at one of them in Python 3.11."""

    cancelled = 0
    while True:
        async with connect(url) as client:
            await client.ping()  # it is connected
            asking = asyncio.create_task(cancellable(client.ping()))
            for _ in range(cancelled + 1):
                await asyncio.sleep(0)
            if asking.done():
                break
            asking.cancel()
            await asyncio.wait({asking}, timeout=HANG_S)
            assert asking.cancelled()
            cancelled += 1
    assert await asking is True
    assert cancelled > 3


async def test_cancellable_returns_or_raises_like_its_coroutine() -> None:
    async def fail() -> None:
        raise ValueError("as it is")

    assert await cancellable(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError, match="as it is"):
        await cancellable(fail())
