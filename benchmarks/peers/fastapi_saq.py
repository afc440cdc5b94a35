"""FastAPI in front of SAQ.

The reply polls for its job; BENCH_POLL_S replaces the default of 0.5 s.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Body, FastAPI
from redis import asyncio as redis
from saq.queue.redis import RedisQueue

import work

queue = RedisQueue(redis.from_url(os.environ["BENCH_REDIS"]))
POLL_S = float(os.environ.get("BENCH_POLL_S", "0.5"))


async def hello_job(ctx: Any) -> dict[str, str]:
    return work.hello()


async def echo_job(ctx: Any, *, event: Any) -> Any:
    return work.echo(event)


async def cpu_job(ctx: Any) -> dict[str, bool]:
    return work.cpu()


async def noop_job(ctx: Any) -> None:
    return work.noop()


async def mark_job(ctx: Any, *, index: int) -> None:
    return work.mark(index)


settings = {"queue": queue, "functions": [hello_job, echo_job, cpu_job, noop_job, mark_job]}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await queue.connect()
    yield
    await queue.disconnect()


app = FastAPI(lifespan=lifespan)


@app.post("/hello")
async def hello() -> dict[str, str]:
    return await queue.apply("hello_job", timeout=60, poll_interval=POLL_S)


@app.post("/echo")
async def echo(event: Any = Body()) -> Any:
    return await queue.apply("echo_job", timeout=60, poll_interval=POLL_S, event=event)


@app.post("/cpu")
async def cpu() -> dict[str, bool]:
    return await queue.apply("cpu_job", timeout=60, poll_interval=POLL_S)


async def enqueue(count: int, every: int) -> None:
    await queue.connect()
    for index in range(count):
        if index % every == 0:
            await queue.enqueue("mark_job", index=index)
        else:
            await queue.enqueue("noop_job")
    await queue.disconnect()
