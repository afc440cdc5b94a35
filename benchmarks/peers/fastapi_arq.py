"""FastAPI in front of arq. arq polls on both sides; BENCH_POLL_S replaces its default of 0.5 s."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import Body, FastAPI

import work

settings = RedisSettings.from_dsn(os.environ["BENCH_REDIS"])
POLL_S = float(os.environ.get("BENCH_POLL_S", "0.5"))
QUIET = {"version": 1, "disable_existing_loggers": False}
"""By default arq logs two lines for every job; the other peers log at level warning."""


async def hello_job(ctx: dict[str, Any]) -> dict[str, str]:
    return work.hello()


async def echo_job(ctx: dict[str, Any], event: Any) -> Any:
    return work.echo(event)


async def cpu_job(ctx: dict[str, Any]) -> dict[str, bool]:
    return work.cpu()


async def noop_job(ctx: dict[str, Any]) -> None:
    return work.noop()


async def mark_job(ctx: dict[str, Any], index: int) -> None:
    return work.mark(index)


class WorkerSettings:
    functions = [hello_job, echo_job, cpu_job, noop_job, mark_job]  # noqa: RUF012 - arq's own form
    redis_settings = settings
    poll_delay = POLL_S


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = await create_pool(settings)
    yield
    await app.state.pool.aclose()


app = FastAPI(lifespan=lifespan)


async def call(name: str, *arguments: Any) -> Any:
    job = await app.state.pool.enqueue_job(name, *arguments)
    return await job.result(timeout=60, poll_delay=POLL_S)


@app.post("/hello")
async def hello() -> dict[str, str]:
    return await call("hello_job")


@app.post("/echo")
async def echo(event: Any = Body()) -> Any:
    return await call("echo_job", event)


@app.post("/cpu")
async def cpu() -> dict[str, bool]:
    return await call("cpu_job")


async def enqueue(count: int, every: int) -> None:
    pool = await create_pool(settings)
    for index in range(count):
        if index % every == 0:
            await pool.enqueue_job("mark_job", index)
        else:
            await pool.enqueue_job("noop_job")
    await pool.aclose()
