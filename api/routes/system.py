"""/healthz and /readyz: is this process alive, and can it do its work?

Knows: what ready means. Does not know: what a worker or a queue is made of.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import key_of
from api.responses import json_reply, response_of
from sandlot.errors import Forbidden, NoWorker, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.jobs.stats import QueueLoads
from sandlot.metrics import BOUNDS_S


def add_health_routes(routes: APIRouter, queue: Queue) -> None:
    @routes.get("/healthz")
    async def healthz() -> Response:
        """This process answers. It says nothing about Redis or workers: restarting it would not bring them back."""
        return response_of(json_reply(200, {"status": "alive"}))

    @routes.get("/readyz")
    async def readyz(request: Request) -> Response:
        """An invocation submitted now would be accepted and run: Redis answers and a worker lives."""
        status = await queue.status()
        if not status.reachable:
            raise QueueUnavailable("Redis does not answer")
        if not any(status.workers.values()):
            raise NoWorker("no live worker; start one with: sandlot worker")
        return response_of(
            json_reply(
                200, {"status": "ready", "workers": status.workers, "queued": status.queued, "running": status.running}
            )
        )


def add_status_routes(routes: APIRouter, queue: Queue) -> None:
    @routes.get("/v1/status")
    async def status(request: Request) -> Response:
        """Raises Forbidden for a key that is for some functions alone."""
        key = key_of(request.scope)
        if key is not None and key.prefix:
            raise Forbidden(f"this speaks of every function, and key {key.id} is for those named {key.prefix}… alone")
        return response_of(json_reply(200, status_document(await queue.load())))


def status_document(load: QueueLoads) -> dict[str, object]:
    """Counts are since each worker started; two documents give rates. `buckets`: how many took up to each of `bounds_s`, the last more."""
    return {
        "queued": load.queued,
        "running": load.running,
        "scheduled": load.scheduled,
        "ended": load.ended,
        "placements": [_placement(load, name) for name in load.placements],
        "functions": _functions(load),
        "workers": [
            {"name": worker.name, "placements": worker.placements, "slots": worker.slots, "busy": worker.busy}
            for worker in load.workers
        ],
        "bounds_s": BOUNDS_S,
    }


def _placement(load: QueueLoads, name: str) -> dict[str, object]:
    queues = [queue for queue in load.queues if queue.placement == name]
    workers = [worker for worker in load.workers if name in worker.placements]
    return {
        "placement": name,
        "queued": sum(queue.queued for queue in queues),
        "oldest_wait_s": max((queue.oldest_wait_s for queue in queues), default=0.0),
        "workers": len(workers),
        "slots": sum(worker.slots for worker in workers),
        "busy": sum(worker.busy for worker in workers),
    }


def _functions(load: QueueLoads) -> list[dict[str, object]]:
    names = {queue.function for queue in load.queues} | {name for worker in load.workers for name in worker.functions}
    return [_function(load, name) for name in sorted(names)]


def _function(load: QueueLoads, name: str) -> dict[str, object]:
    queues = [queue for queue in load.queues if queue.function == name]
    stats = [worker.functions[name] for worker in load.workers if name in worker.functions]
    return {
        "function": name,
        "queued": sum(queue.queued for queue in queues),
        "running": sum(queue.running for queue in queues),
        "oldest_wait_s": max((queue.oldest_wait_s for queue in queues), default=0.0),
        "ok": sum(counted.ok for counted in stats),
        "failed": sum(counted.failed for counted in stats),
        # A worker of another release may have other buckets; then the shorter decides.
        "buckets": [sum(column) for column in zip(*(counted.buckets for counted in stats), strict=False)],
    }
