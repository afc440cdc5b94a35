"""Health, status, metrics and documentation of the API itself."""

from __future__ import annotations

from typing import Final

from api.operations.examples import FORBIDDEN, TRY_AGAIN, UNAUTHENTICATED
from api.operations.operation import Access, Operation, ResponseDoc
from api.operations.schemas import TEXT, record, ref

HEALTHZ: Final = Operation(
    method="GET",
    path="/healthz",
    access=Access.OPEN,
    tag="health",
    summary="Is this process alive?",
    ignores_query=True,
    answers=(ResponseDoc(200, "it is", {"status": "alive"}, schema=record("status", status=TEXT)),),
    curl="curl localhost:8000/healthz",
)
READYZ: Final = Operation(
    method="GET",
    path="/readyz",
    access=Access.OPEN,
    tag="health",
    summary="Would an invocation be run?",
    ignores_query=True,
    answers=(
        ResponseDoc(
            200,
            "Redis answers and a worker is alive",
            {"status": "ready", "workers": {"python": 1, "node": 1}, "queued": 0, "running": 0},
            schema=ref("Ready"),
        ),
        TRY_AGAIN,
    ),
    curl="curl localhost:8000/readyz",
)
STATUS: Final = Operation(
    method="GET",
    path="/v1/status",
    access=Access.READ,
    opens_to_metrics_token=True,
    tag="health",
    summary="Show the queue, the workers and their counters",
    description="Queued jobs and how long the oldest has waited, slots and busy slots by placement: the signal for an "
    "autoscaler. Counters start with each worker, so two replies give rates. `buckets` counts the calls that took up "
    "to each of `bounds_s`; its last entry counts those that took longer. Requires the scope `read` on all functions.",
    ignores_query=True,
    answers=(
        ResponseDoc(
            200,
            "as of the workers' last heartbeats",
            {
                "queued": 3,
                "running": 8,
                "scheduled": 0,
                "ended": 1204,
                "placements": [
                    {"placement": "python", "queued": 3, "oldest_wait_s": 0.2, "workers": 1, "slots": 8, "busy": 8}
                ],
                "functions": [
                    {
                        "function": "hello",
                        "queued": 3,
                        "running": 8,
                        "oldest_wait_s": 0.2,
                        "ok": 1190,
                        "failed": 14,
                        "buckets": [0, 1100, 90, 0, 14],
                    }
                ],
                "workers": [{"name": "host.4711.0a1b2c3d", "placements": ["node", "python"], "slots": 8, "busy": 8}],
                "bounds_s": [0.0005, 0.001, 0.0025, 0.005],
            },
            schema=ref("Status"),
        ),
        UNAUTHENTICATED,
        FORBIDDEN,
        TRY_AGAIN,
    ),
    curl='curl -H "Authorization: Bearer $KEY" localhost:8000/v1/status',
)
METRICS: Final = Operation(
    method="GET",
    path="/metrics",
    access=Access.READ,
    opens_to_metrics_token=True,
    tag="health",
    summary="Metrics for Prometheus",
    description="Replies by route, calls by function, the queue and its workers, in Prometheus's text format. "
    "Includes every process that shares the port, each under its own `process` label. Requires the scope `read` on "
    "all functions, or `SANDLOT_METRICS_TOKEN`, which opens only this and /v1/status.",
    ignores_query=True,
    answers=(
        ResponseDoc(200, "the metrics", 'sandlot_queue_depth{function="hello"} 3.0\n', "text/plain", schema=TEXT),
        UNAUTHENTICATED,
        FORBIDDEN,
    ),
    curl='curl -H "Authorization: Bearer $KEY" localhost:8000/metrics',
)
OPENAPI_JSON: Final = Operation(
    method="GET",
    path="/openapi.json",
    access=Access.OPEN,
    tag="documentation",
    summary="This description, for programs",
    ignores_query=True,
    answers=(ResponseDoc(200, "OpenAPI 3.1", {"openapi": "3.1.0"}, schema={"type": "object"}),),
    curl="curl localhost:8000/openapi.json",
)
DOCS: Final = Operation(
    method="GET",
    path="/docs",
    access=Access.OPEN,
    tag="documentation",
    summary="This description, for people",
    ignores_query=True,
    answers=(ResponseDoc(200, "a page", "<!doctype html>", "text/html", schema=TEXT),),
    curl="curl localhost:8000/docs",
)

SYSTEM: Final = (HEALTHZ, READYZ, STATUS, METRICS, OPENAPI_JSON, DOCS)
