"""GET /metrics: everything that the API knows, in the text that Prometheus reads.

Knows: what a scrape gathers, and from whom. Does not know: names and labels (`api.counts`), who is let in (`api.auth`).
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import key_of
from api.calls import Calls
from api.counts import ApiCounts
from api.peers import Peers
from sandlot.errors import Forbidden, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.metrics import Family, gauge, single


class Metrics:
    """One per process; `peers` is put in its place when there are several."""

    def __init__(self, queue: Queue, calls: Calls, counts: ApiCounts) -> None:
        self._queue = queue
        self._calls = calls
        self._counts = counts
        self.peers = Peers(None, "", self.own)

    def own(self) -> list[Family]:
        """What this process has counted."""
        return self._counts.families(self._calls.waiting, self._queue.round_trips)

    async def text(self) -> bytes:
        """Of all processes, and of the queue they share."""
        # Imported here: it takes 60 ms, which an API that nobody asks need not spend.
        from sandlot.metrics import write_processes

        processes = await self.peers.families()
        try:
            load = await self._queue.load()
        except QueueUnavailable:
            load = None
        shared = self._counts.families_of(load)
        count = gauge(
            "sandlot_api_processes", "Processes of this API that are in this text.", (), single(len(processes))
        )
        return await asyncio.to_thread(write_processes, [("", [count, *shared]), *processes.items()])


def add_routes(routes: APIRouter, metrics: Metrics) -> None:
    @routes.get("/metrics")
    async def scrape(request: Request) -> Response:
        """For the scope `read`, or the token made for this."""
        key = key_of(request.scope)
        if key is not None and key.prefix:
            raise Forbidden(f"metrics speak of every function, and key {key.id} is for those named {key.prefix}… alone")
        text = await metrics.text()
        from sandlot.metrics import CONTENT_TYPE

        return Response(text, media_type=CONTENT_TYPE)
