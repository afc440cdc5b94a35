"""FastAPI in front of taskiq (list broker).

The reply polls for its result; BENCH_POLL_S replaces the default of 0.2 s.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Body, FastAPI
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

import work

url = os.environ["BENCH_REDIS"]
POLL_S = float(os.environ.get("BENCH_POLL_S", "0.2"))
broker = ListQueueBroker(url).with_result_backend(RedisAsyncResultBackend(url))


@broker.task
async def hello_task() -> dict[str, str]:
    return work.hello()


@broker.task
async def echo_task(event: Any) -> Any:
    return work.echo(event)


@broker.task
async def cpu_task() -> dict[str, bool]:
    return work.cpu()


@broker.task
async def noop_task() -> None:
    return work.noop()


@broker.task
async def mark_task(index: int) -> None:
    return work.mark(index)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


app = FastAPI(lifespan=lifespan)


async def call(task: Any, *arguments: Any) -> Any:
    running = await task.kiq(*arguments)
    return (await running.wait_result(check_interval=POLL_S, timeout=60)).return_value


@app.post("/hello")
async def hello() -> dict[str, str]:
    return await call(hello_task)


@app.post("/echo")
async def echo(event: Any = Body()) -> Any:
    return await call(echo_task, event)


@app.post("/cpu")
async def cpu() -> dict[str, bool]:
    return await call(cpu_task)


async def enqueue(count: int, every: int) -> None:
    await broker.startup()
    for index in range(count):
        if index % every == 0:
            await mark_task.kiq(index)
        else:
            await noop_task.kiq()
    await broker.shutdown()
