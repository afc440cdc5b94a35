"""FastAPI in front of stock RQ.

The reply waits with a blocking read of the result stream, the faster of RQ's two ways to wait.
"""

import os
from collections.abc import Callable
from typing import Any

from fastapi import Body, FastAPI
from redis import Redis
from rq import Queue

import work

app = FastAPI()
queue = Queue(connection=Redis.from_url(os.environ["BENCH_REDIS"]))


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    result = queue.enqueue(function, *arguments).latest_result(timeout=60)
    if result is None:
        raise TimeoutError("no result within 60 s")
    return result.return_value


@app.post("/hello")
def hello() -> dict[str, str]:
    return call(work.hello)


@app.post("/echo")
def echo(event: Any = Body()) -> Any:
    return call(work.echo, event)


@app.post("/cpu")
def cpu() -> dict[str, bool]:
    return call(work.cpu)


def enqueue(count: int, every: int) -> None:
    for index in range(count):
        if index % every == 0:
            queue.enqueue(work.mark, index)
        else:
            queue.enqueue(work.noop)
