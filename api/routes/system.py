"""Health, status and metrics of the API."""

from __future__ import annotations

from fastapi.responses import Response

from api.dependencies import KeyDep, QueueDep, ServicesDep
from api.operations.system import HEALTHZ, METRICS, READYZ, STATUS
from api.responses import json_reply, response_of
from api.routing import Handlers
from sandlot.api_keys import ApiKey
from sandlot.errors import Forbidden, NoWorker, QueueUnavailable
from sandlot.jobs.stats import QueueLoads
from sandlot.metrics import BOUNDS_S, CONTENT_TYPE

handlers = Handlers()


@handlers.serves(HEALTHZ)
async def healthz() -> Response:
    """Answer whenever this process is alive.

    Redis and workers do not matter here: restarting this process would not bring them back.
    """
    return response_of(json_reply(200, {"status": "alive"}))


@handlers.serves(READYZ)
async def readyz(queue: QueueDep) -> Response:
    """Answer 200 if an invocation submitted now would run: Redis answers and a worker is alive."""
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


@handlers.serves(STATUS)
async def status(queue: QueueDep, key: KeyDep) -> Response:
    _require_all_functions(key, "the status covers")
    return response_of(json_reply(200, status_document(await queue.load())))


@handlers.serves(METRICS)
async def metrics(services: ServicesDep, key: KeyDep) -> Response:
    _require_all_functions(key, "metrics cover")
    text = await services.metrics.text()
    return Response(text, media_type=CONTENT_TYPE)


def _require_all_functions(key: ApiKey | None, subject: str) -> None:
    """
    Raises:
        Forbidden: the key is limited to some functions.
    """
    if key is not None and key.prefix:
        raise Forbidden(f"{subject} every function, and key {key.id} is only for those named {key.prefix}…")


def status_document(load: QueueLoads) -> dict[str, object]:
    """Return the status as a JSON document.

    Counters start with each worker, so two documents give rates. `buckets` counts the calls that
    took up to each of `bounds_s`; its last entry counts those that took longer.
    """
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
        # A worker of another release may have other buckets; the shorter list decides.
        "buckets": [sum(column) for column in zip(*(counted.buckets for counted in stats), strict=False)],
    }
