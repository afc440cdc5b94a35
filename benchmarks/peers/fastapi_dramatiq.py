"""FastAPI in front of dramatiq, Redis as broker and result backend."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from fastapi import Body, FastAPI

import work

url = os.environ["BENCH_REDIS"]
broker = RedisBroker(url=url)
broker.add_middleware(Results(backend=RedisBackend(url=url)))
dramatiq.set_broker(broker)

hello_actor = dramatiq.actor(work.hello, actor_name="hello", store_results=True)
echo_actor = dramatiq.actor(work.echo, actor_name="echo", store_results=True)
cpu_actor = dramatiq.actor(work.cpu, actor_name="cpu", store_results=True)
noop_actor = dramatiq.actor(work.noop, actor_name="noop", store_results=True)
mark_actor = dramatiq.actor(work.mark, actor_name="mark", store_results=True)

app = FastAPI()


@app.post("/hello")
def hello() -> dict[str, str]:
    return hello_actor.send().get_result(block=True, timeout=60_000)


@app.post("/echo")
def echo(event: Any = Body()) -> Any:
    return echo_actor.send(event).get_result(block=True, timeout=60_000)


@app.post("/cpu")
def cpu() -> dict[str, bool]:
    return cpu_actor.send().get_result(block=True, timeout=60_000)


def enqueue(count: int, every: int) -> None:
    for index in range(count):
        if index % every == 0:
            mark_actor.send(index)
        else:
            noop_actor.send()
