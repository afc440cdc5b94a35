"""Health and documentation, as the documentation shows them.

Knows: their words and answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.form import NO_KEY, NO_SCOPE, TRY_AGAIN, Operation, ResponseDoc
from api.operations.schemas import TEXT, record, ref

HEALTH: Final = (
    Operation(
        method="GET",
        path="/healthz",
        tag="health",
        summary="Is this process alive?",
        answers=(ResponseDoc(200, "it is", {"status": "alive"}, schema=record("status", status=TEXT)),),
        curl="curl localhost:8000/healthz",
    ),
    Operation(
        method="GET",
        path="/readyz",
        tag="health",
        summary="Would an invocation be run?",
        answers=(
            ResponseDoc(
                200,
                "Redis answers and a worker lives",
                {"status": "ready", "workers": {"python": 1, "node": 1}, "queued": 0, "running": 0},
                schema=ref("Ready"),
            ),
            TRY_AGAIN,
        ),
        curl="curl localhost:8000/readyz",
    ),
    Operation(
        method="GET",
        path="/v1/status",
        tag="health",
        summary="The queue, its workers, and what they have done",
        description=(
            "What waits and for how long, slots and busy slots by placement: the signal for whatever adds machines. Counts are since each worker "
            "started, so two replies give rates; `buckets` says how many took up to each of `bounds_s`, and in the end how many took longer. "
            "For the scope `read` on all functions."
        ),
        answers=(
            ResponseDoc(
                200,
                "as of the workers' last beats",
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
                    "workers": [
                        {"name": "host.4711.0a1b2c3d", "placements": ["node", "python"], "slots": 8, "busy": 8}
                    ],
                    "bounds_s": [0.0005, 0.001, 0.0025, 0.005],
                },
                schema=ref("Status"),
            ),
            NO_KEY,
            NO_SCOPE,
            TRY_AGAIN,
        ),
        curl='curl -H "Authorization: Bearer $KEY" localhost:8000/v1/status',
    ),
    Operation(
        method="GET",
        path="/metrics",
        tag="health",
        summary="What was counted, for Prometheus",
        description=(
            "Replies by route, calls by function, the queue and its workers, in Prometheus's text format; of all processes that share the port, "
            "each under its own `process`. For the scope `read` on all functions, or for `SANDLOT_METRICS_TOKEN`, which reads nothing else."
        ),
        answers=(
            ResponseDoc(200, "the text", 'sandlot_queue_depth{function="hello"} 3.0\n', "text/plain", schema=TEXT),
            NO_KEY,
            NO_SCOPE,
        ),
        curl='curl -H "Authorization: Bearer $KEY" localhost:8000/metrics',
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        tag="documentation",
        summary="This description, for machines",
        answers=(ResponseDoc(200, "OpenAPI 3.1", {"openapi": "3.1.0"}, schema={"type": "object"}),),
        curl="curl localhost:8000/openapi.json",
    ),
    Operation(
        method="GET",
        path="/docs",
        tag="documentation",
        summary="This description, for people",
        answers=(ResponseDoc(200, "a page", "<!doctype html>", "text/html", schema=TEXT),),
        curl="curl localhost:8000/docs",
    ),
)
