"""/healthz and /readyz: is this process alive, and can it do its work?

Knows: what ready means. Does not know: what a worker or a queue is made of.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.replies import json_reply, response_of
from sandlot.errors import NoWorker, QueueUnavailable
from sandlot.jobs import Queue


def add_routes(routes: APIRouter, queue: Queue) -> None:
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
