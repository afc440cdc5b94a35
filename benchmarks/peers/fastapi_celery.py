"""FastAPI in front of Celery (prefork), Redis as broker and result backend."""

import os
from typing import Any

from celery import Celery
from fastapi import Body, FastAPI

import work

url = os.environ["BENCH_REDIS"].replace("unix://", "redis+socket://")
celery = Celery("fastapi_celery", broker=url, backend=url)
celery.conf.broker_connection_retry_on_startup = True

hello_task = celery.task(work.hello, name="hello")
echo_task = celery.task(work.echo, name="echo")
cpu_task = celery.task(work.cpu, name="cpu")
noop_task = celery.task(work.noop, name="noop")
mark_task = celery.task(work.mark, name="mark")

app = FastAPI()


@app.post("/hello")
def hello() -> dict[str, str]:
    return hello_task.delay().get(timeout=60)


@app.post("/echo")
def echo(event: Any = Body()) -> Any:
    return echo_task.delay(event).get(timeout=60)


@app.post("/cpu")
def cpu() -> dict[str, bool]:
    return cpu_task.delay().get(timeout=60)


def enqueue(count: int, every: int) -> None:
    for index in range(count):
        if index % every == 0:
            mark_task.delay(index)
        else:
            noop_task.delay()
