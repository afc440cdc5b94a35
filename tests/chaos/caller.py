"""Callers that record every reply and retry over HTTP with idempotency keys."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import Final

from tests.chaos.connections import Answer, ClosedWhileIdle, Connections, Unanswered
from tests.chaos.history import Acknowledgement, History
from tests.chaos.rig import FUNCTION, Rig

PATIENCE_S: Final = 120.0
"""How long a caller goes on trying; an API that is away for longer has failed the plan."""


class Callers:
    """An open loop: requests come at their rate, whether the ones before were answered or not."""

    def __init__(
        self,
        rig: Rig,
        history: History,
        dice: random.Random,
        *,
        rate_hz: float,
        work_s: tuple[float, float],
        with_keys: bool = True,
    ) -> None:
        """`with_keys=False` sends no idempotency keys.

        A caller's retry then makes another job; the platform's own retries still must not.
        """
        self._history = history
        self._dice = dice
        self._rate_hz = rate_hz
        self._work_s = work_s
        self._with_keys = with_keys
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._connections = Connections(rig.api_port, {"authorization": f"Bearer {rig.key}"})
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._call_for_ever(), name="callers")

    async def _call_for_ever(self) -> None:
        due_s = time.monotonic()
        while not self._stop.is_set():
            due_s += self._dice.expovariate(self._rate_hz)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self.call(sync=self._dice.random() < 0.3, work_s=self._dice.uniform(*self._work_s))

    def call(self, *, sync: bool, work_s: float, fails: bool = False, delay: str = "") -> asyncio.Task[None]:
        """Send one more request, retried until it is acknowledged; the task ends then.

        `fails`: the job's first attempt raises.
        """
        self._history.requests += 1
        task = asyncio.create_task(self._request(self._history.requests, sync, work_s, fails, delay))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _request(self, number: int, sync: bool, work_s: float, fails: bool, delay: str) -> None:
        """The idempotency key makes trying again safe; that is part of what is tested."""
        ends_s = time.monotonic() + PATIENCE_S
        headers = {} if sync else {"prefer": "respond-async"}
        if delay:
            headers["x-sandlot-delay"] = delay
        if self._with_keys:
            headers["idempotency-key"] = f"request-{number}"
        body = json.dumps({"s": round(work_s, 3), "n": number, "fails": fails}).encode()
        while time.monotonic() < ends_s:
            try:
                reply = await self._connections.send("POST", f"/v1/functions/{FUNCTION}/invoke", headers, body)
            except Unanswered as error:
                self._history.refused[str(error)] += 1
            else:
                if self._acknowledged(number, reply):
                    return
            await asyncio.sleep(0.1)
            if not self._with_keys:
                self._history.requests += 1
        self._history.broke.append(f"request {number} was not acknowledged within {PATIENCE_S} s")

    def _acknowledged(self, number: int, reply: Answer) -> bool:
        now_ms = time.time() * 1000
        if reply.status == 202:
            self._history.acknowledged.append(Acknowledgement(number, reply.json()["id"], now_ms))
            return True
        outcome = reply.headers.get("x-sandlot-outcome", "")
        if reply.status == 200:
            job_id, attempt = reply.json()
            assert job_id == reply.headers["x-job-id"], reply.body
            self._history.acknowledged.append(Acknowledgement(number, job_id, now_ms, outcome, attempt))
            return True
        if outcome and "x-job-id" in reply.headers:
            self._history.acknowledged.append(Acknowledgement(number, reply.headers["x-job-id"], now_ms, outcome))
            return True
        code = str(reply.json().get("code", reply.status))
        if code == "wait_timeout":  # the wait is over, the job is not: its address is an acknowledgement
            job_id = reply.headers["location"].rpartition("/")[2]
            self._history.acknowledged.append(Acknowledgement(number, job_id, now_ms))
            return True
        self._history.refused[code] += 1
        assert reply.status in (429, 503, 504), f"{reply.status} {reply.body!r}"
        return False

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send any other request, and repeat it only if it cannot have reached the server."""
        while True:
            try:
                return await self._connections.send(method, path, headers or {}, body)
            except ClosedWhileIdle:
                continue

    async def cancel(self, job_id: str) -> None:
        """202: it will not run on; 409: it had ended."""
        reply = await self.ask("DELETE", f"/v1/jobs/{job_id}")
        assert reply.status in (202, 409, 503), f"{reply.status} {reply.body!r}"

    async def finish(self) -> None:
        """No new requests; wait until each of the others is acknowledged.

        Raises:
            AssertionError: an answer was none that the API documents.
        """
        self._stop.set()
        if self._loop is not None:
            await self._loop
        async with asyncio.timeout(PATIENCE_S + 30):
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        tasks = [*self._tasks, *([self._loop] if self._loop is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()
