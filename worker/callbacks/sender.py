"""The callback sender: claims callbacks that are due and delivers them, several at a time.

Any number of workers send, and each callback is claimed by one of them. If a worker dies between
the receiver's reply and its record, the callback is delivered again; a receiver recognises the
duplicate by the message's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from redis.asyncio import Redis

from sandlot.callback_policy import check_callback_url
from sandlot.errors import CallbackRefused, QueueUnavailable, UnsafeRecord
from sandlot.jobs.callbacks import Callbacks, Delivery
from sandlot.network_policy import AllowList
from sandlot.redis.connection import end_task
from sandlot.redis.invalidation import Invalidation
from sandlot.redis.keys import CALLBACKS_DUE
from worker.callbacks.delivery import NoReply, WebhookClient, WebhookReply
from worker.callbacks.message import RESULT_LIMIT_BYTES, compose, next_traceparent, signed_headers

PAUSES_S: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Pauses between the ten tries, as Standard Webhooks recommends them: three days in all."""
TRIES_LIMIT: Final = len(PAUSES_S) + 1
AT_ONCE: Final = 32
AT_ONCE_PER_HOST: Final = 8
"""One slow receiver must not delay the callbacks of all others."""
HOST_BUSY_PAUSE_S: Final = 2.0
JITTER: Final = 0.1
"""Share of a pause that is added at random, so that callbacks that failed together spread out."""
LONGEST_PAUSE_S: Final = 86_400.0
GONE: Final = 410
_RETRY_AFTER_STATUSES: Final = frozenset({429, 502, 503, 504})
_RECORD_TRIES: Final = 5
_PAUSE_S: Final = 1.0
_CLOSE_S: Final = 3.0
"""Time for running deliveries when the worker stops; another worker repeats unfinished ones."""

Recording = Callable[[], Awaitable[bool]]

_log: Final = logging.getLogger(__name__)


class Sender:
    """A background task that delivers callbacks, from `open` until `close`."""

    def __init__(
        self,
        redis: Redis,
        signing_key: bytes,
        hosts: AllowList,
        secrets: Sequence[bytes],
        client: WebhookClient,
        tries: Counter[str],
    ) -> None:
        """
        Args:
            hosts: the receivers that callbacks may go to.
            secrets: each of them signs every callback; at least one.
            client: opened and closed by the caller.
            tries: the sender adds to it, by the result of a try: `delivered`, `again`, `failed`.
        """
        self._callbacks = Callbacks(redis, signing_key)
        self._hosts = hosts
        self._secrets = secrets
        self._client = client
        self._wake = asyncio.Event()
        self._invalidation = Invalidation(redis, CALLBACKS_DUE, lambda _job_id: self._wake.set())
        self._task: asyncio.Task[None] | None = None
        self._deliveries: set[asyncio.Task[None]] = set()
        self._per_host: Counter[str] = Counter()
        self._tries = tries

    def open(self) -> None:
        """Start the task and return at once; Redis need not be reachable yet."""
        self._invalidation.start()
        self._task = asyncio.create_task(self._run(), name="callbacks")

    async def close(self) -> None:
        await self._invalidation.stop()
        await end_task(self._task)
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=_CLOSE_S)
        for task in [*self._deliveries]:
            await end_task(task)

    async def _run(self) -> None:
        reachable = True
        while True:
            self._wake.clear()
            pause_s: float | None = _PAUSE_S
            try:
                pause_s = await self._start_due()
                reachable = True
            except QueueUnavailable as error:
                if reachable:  # log an outage once
                    _log.warning("callbacks wait for Redis", extra={"error": error.message})
                reachable = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _start_due(self) -> float | None:
        """Start due deliveries; return the pause in seconds until the next one is due.

        None stands for a wait until a callback is ordered or a delivery ends.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        free = AT_ONCE - len(self._deliveries)
        if free <= 0:
            return None  # the first delivery that ends sets `_wake`
        claimed = await self._callbacks.claim(free)
        for delivery in claimed.deliveries:
            task = asyncio.create_task(self._deliver(delivery), name=f"callback {delivery.job_id}")
            self._deliveries.add(task)
            task.add_done_callback(self._on_delivery_done)
        return 0.0 if len(claimed.deliveries) == free else claimed.pause_s

    def _on_delivery_done(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            # The lease of this callback expires, and it is tried again.
            _log.error("callback broke", exc_info=task.exception())

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            order, outcome = self._callbacks.read(delivery)
            url = check_callback_url(order.url, self._hosts)
        except (UnsafeRecord, CallbackRefused) as error:
            await self._give_up(delivery, delivery.tries, None, error.message)
            return
        host = urlsplit(url).hostname or ""
        if self._per_host[host] >= AT_ONCE_PER_HOST:
            await self._postpone(delivery, HOST_BUSY_PAUSE_S, delivery.tries, None, "", delivery.body)
            return
        self._per_host[host] += 1
        try:
            body = delivery.body
            if not body:
                result = await self._callbacks.result(delivery.job_id, outcome, RESULT_LIMIT_BYTES)
                body = compose(order, outcome, delivery.ended_ms, result)
            headers = signed_headers(self._secrets, delivery.job_id, int(time.time()), body)
            if order.traceparent:
                headers.append(("traceparent", next_traceparent(order.traceparent)))
            await self._try(delivery, url, headers, body)
        except QueueUnavailable as error:
            _log.warning("callback not recorded", extra={"job_id": delivery.job_id, "error": error.message})
        finally:
            self._per_host[host] -= 1
            if not self._per_host[host]:
                del self._per_host[host]

    async def _try(self, delivery: Delivery, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send one POST, then record the delivery, the next try or the failure.

        Raises:
            QueueUnavailable: the result of the try was not recorded.
        """
        tries = delivery.tries + 1
        status: int | None = None
        least_s = 0.0
        try:
            reply = await self._client.post(url, headers, body)
        except CallbackRefused as error:
            await self._give_up(delivery, tries, None, error.message)
            return
        except NoReply as error:
            reason = str(error)
        else:
            status = reply.status
            if 200 <= status < 300:
                await self._delivered(delivery, tries, status, url)
                return
            reason = f"the receiver answered {status}"
            least_s = retry_after_s(reply)
        if status == GONE:
            await self._give_up(delivery, tries, status, f"{reason}: it accepts no callbacks any more")
        elif tries >= TRIES_LIMIT:
            await self._give_up(delivery, tries, status, f"{reason}; that was try {tries} of {TRIES_LIMIT}")
        else:
            pause_s = PAUSES_S[tries - 1] * (1 + JITTER * random.random())  # noqa: S311 - spreads load, protects nothing
            await self._postpone(delivery, max(pause_s, least_s), tries, status, reason, body)

    async def _delivered(self, delivery: Delivery, tries: int, status: int, url: str) -> None:
        self._tries["delivered"] += 1
        facts = {"job_id": delivery.job_id, "host": urlsplit(url).hostname, "status": status, "tries": tries}
        _log.info("callback delivered", extra=facts)
        await self._record(lambda: self._callbacks.delivered(delivery, tries=tries, status=status))

    async def _postpone(
        self, delivery: Delivery, pause_s: float, tries: int, status: int | None, reason: str, body: bytes
    ) -> None:
        if tries > delivery.tries:
            self._tries["again"] += 1
            facts = {"job_id": delivery.job_id, "tries": tries, "reason": reason, "again_in_s": round(pause_s)}
            _log.info("callback failed", extra=facts)
        await self._record(
            lambda: self._callbacks.retry(delivery, pause_s, tries=tries, status=status, reason=reason, body=body)
        )

    async def _give_up(self, delivery: Delivery, tries: int, status: int | None, reason: str) -> None:
        self._tries["failed"] += 1
        _log.warning("callback given up", extra={"job_id": delivery.job_id, "tries": tries, "reason": reason})
        await self._record(lambda: self._callbacks.failed(delivery, tries=tries, status=status, reason=reason))

    async def _record(self, record: Recording) -> None:
        """Record the result of a try, with some tries of its own while Redis does not answer.

        Raises:
            QueueUnavailable: nothing was recorded; the lease expires, and the callback is tried
                again.
        """
        for left in reversed(range(_RECORD_TRIES)):
            try:
                await record()
            except QueueUnavailable:
                if not left:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return


def retry_after_s(reply: WebhookReply) -> float:
    """Return the pause that the receiver asks for (RFC 9110, section 10.2.3), at most a day.

    0 if it asks for none, or if the header is malformed.
    """
    text = reply.retry_after.strip()
    if reply.status not in _RETRY_AFTER_STATUSES or not text:
        return 0.0
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_PAUSE_S)
    try:
        moment = parsedate_to_datetime(text)
        return min(max(0.0, moment.timestamp() - time.time()), LONGEST_PAUSE_S)
    except (ValueError, OverflowError):
        return 0.0
