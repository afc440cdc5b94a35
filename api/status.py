"""GET /v1/status: the queue, its workers and what they have done, for people and for scripts without a Prometheus.

Knows: the document. Does not know: how it is gathered, how it is shown.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import key_of
from api.replies import json_reply, response_of
from sandlot.errors import Forbidden
from sandlot.jobs import Queue
from sandlot.jobs.stats import QueueLoads
from sandlot.metrics import BOUNDS_S


def add_routes(routes: APIRouter, queue: Queue) -> None:
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
