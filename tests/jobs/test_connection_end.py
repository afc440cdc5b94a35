"""Tasks that call redis-py end, although it may swallow what should end them."""

from __future__ import annotations

import asyncio

from sandlot.jobs.connection import end_task


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
    async with asyncio.timeout(10):
        await end_task(task)
    assert (task.cancelled(), swallowed) == (True, 3)


async def test_no_task_and_one_that_is_over_are_left_alone() -> None:
    await end_task(None)
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await end_task(task)
    assert not task.cancelled()
