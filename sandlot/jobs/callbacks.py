"""Whose URL is to be told of which job's end: ordered with the job, due at its end, delivered by whichever worker takes it.

Knows: keys, the scripts, leases, the signed order. Does not know: HTTP, when a failed try is worth another.
The end of a job and the duty to tell of it are written by one script (`finish` in prelude.lua), so neither is there without the other. What is
to be sent, and where to, is signed: whoever can write to Redis can delay or silence a callback, but cannot have a worker call a URL.
"""

from __future__ import annotations

import hmac
from typing import Final, NamedTuple, cast

import msgspec
from redis.asyncio import Redis

from sandlot.errors import UnsafeRecord
from sandlot.jobs.settlement import OutcomeRecord, decode_return_value, job_result_from, read_outcome_record
from sandlot.models import Invocation
from sandlot.redis import keys
from sandlot.redis.connection import answering
from sandlot.redis.lua import script
from sandlot.signing import mac

LEASE_MS: Final = 60_000
"""A worker that died while it delivered is made up for after this; longer than the longest delivery."""
KEPT_S: Final = 86_400
"""What came of a callback is kept for as long, so that its job's document can say so."""
REASON_LIMIT: Final = 300


class CallbackRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller ordered with the job."""

    job_id: str
    function: str
    version: int
    digest: str
    url: str
    traceparent: str = ""


class Delivery(NamedTuple):
    """A worker's right to one try; `take` is its fencing token. `order` and `end` are as they were signed."""

    job_id: str
    take: int
    order: bytes
    end: bytes
    ended_ms: int
    tries: int
    """That were made before."""
    body: bytes
    """That was sent before; empty on the first try."""


class ClaimedDeliveries(NamedTuple):
    """`pause_s`: until the next is due, or some other worker's lease ends; `None` while there is nothing."""

    deliveries: list[Delivery]
    pause_s: float | None


class CallbackState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How telling a job's caller stands: `waiting` (for the job's end), `pending` (a try is due), `delivered`, `failed` (given up)."""

    state: str
    url: str
    tries: int = 0
    last_status: int | None = None
    reason: str = ""
    next_ms: int | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(CallbackRequest)


def seal_callback(key: bytes, invocation: Invocation) -> bytes:
    """`<signature>|<json>`; empty if no callback is wanted."""
    if not invocation.callback_url:
        return b""
    order = CallbackRequest(
        invocation.job_id,
        invocation.function,
        invocation.version,
        invocation.digest,
        invocation.callback_url,
        invocation.traceparent,
    )
    text = _encoder.encode(order)
    return mac(key, b"callback", text) + b"|" + text


def open_callback(key: bytes, job_id: str, sealed: bytes) -> CallbackRequest:
    """
    Raises:
        UnsafeRecord: this is not what was ordered for this job.
    """
    signature, _, text = sealed.partition(b"|")
    if not hmac.compare_digest(signature, mac(key, b"callback", text)):
        raise UnsafeRecord(f"the callback of job {job_id} has no valid signature; nobody was called")
    try:
        order = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise UnsafeRecord(f"the callback of job {job_id} cannot be read: {error}") from None
    if order.job_id != job_id:
        raise UnsafeRecord(f"job {job_id} carries the callback of job {order.job_id}; nobody was called")
    return order


def state_from(
    key: bytes, job_id: str, sealed: bytes, found: list[bytes | None], due_ms: bytes | None
) -> CallbackState:
    """What the job's document says; `found` is HMGET of `STATE_FIELDS`, `due_ms` the job's score in `keys.CALLBACKS`.

    Raises:
        UnsafeRecord: the order was tampered with.
    """
    state, tries, status, reason, ended_ms = found
    known = state.decode() if state else ("pending" if ended_ms else "waiting")
    return CallbackState(
        state=known,
        url=open_callback(key, job_id, sealed).url,
        tries=int(tries or 0),
        last_status=int(status) if status else None,
        reason=(reason or b"").decode("utf-8", "replace"),
        next_ms=int(float(due_ms)) if due_ms and known == "pending" else None,
    )


STATE_FIELDS: Final = ("state", "tries", "status", "reason", "ended_ms")


class Callbacks:
    """Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        self._key = signing_key
        self._take = redis.register_script(script("callback_claim").text)
        self._end = redis.register_script(script("callback_finish").text)

    async def claim(self, limit: int) -> ClaimedDeliveries:
        """At most so many that are due and nobody's, each with a lease of `LEASE_MS`."""
        async with answering():
            found, next_ms, now_ms = await self._take(keys=[], args=[LEASE_MS, limit])
        deliveries = [
            Delivery(job_id.decode(), int(take), order, end, int(ended_ms), int(tries), body)
            for job_id, take, order, end, ended_ms, tries, body in found
        ]
        return ClaimedDeliveries(deliveries, max(0.0, (float(next_ms) - int(now_ms)) / 1000) if next_ms else None)

    def read(self, delivery: Delivery) -> tuple[CallbackRequest, OutcomeRecord]:
        """
        Raises:
            UnsafeRecord: not what was ordered, or not how the job ended.
        """
        return open_callback(self._key, delivery.job_id, delivery.order), read_outcome_record(
            self._key, delivery.job_id, delivery.end
        )

    async def result(self, job_id: str, end: OutcomeRecord, limit_bytes: int) -> bytes:
        """What the job returned; empty if that is longer, no longer kept, or not what its worker signed for."""
        if not 0 < end.result_bytes <= limit_bytes:
            return b""
        async with answering():
            entries = await self._redis.xrevrange(keys.RESULTS + job_id, count=1)
        if not entries:
            return b""
        fields = cast("dict[bytes, bytes]", entries[0][1])
        try:
            result = decode_return_value(fields.get(b"return_value", b""))
            return job_result_from(job_id, end, result, function=end.function, version=end.version).result
        except (ValueError, UnsafeRecord):
            return b""

    async def retry(
        self, delivery: Delivery, pause_s: float, *, tries: int, status: int | None, reason: str, body: bytes
    ) -> bool:
        """Another try is due in `pause_s`; False if the lease was lost."""
        return await self._settle(delivery, "", round(pause_s * 1000), tries, status, reason, body)

    async def delivered(self, delivery: Delivery, *, tries: int, status: int) -> bool:
        """It is over, and well; False if the lease was lost."""
        return await self._settle(delivery, "delivered", 0, tries, status, "", b"")

    async def failed(self, delivery: Delivery, *, tries: int, status: int | None, reason: str) -> bool:
        """It is over: no try will be made any more; False if the lease was lost."""
        return await self._settle(delivery, "failed", 0, tries, status, reason, b"")

    async def _settle(
        self, delivery: Delivery, state: str, pause_ms: int, tries: int, status: int | None, reason: str, body: bytes
    ) -> bool:
        async with answering():
            answer = await self._end(
                keys=[],
                args=[
                    delivery.job_id,
                    delivery.take,
                    state,
                    pause_ms,
                    tries,
                    "" if status is None else status,
                    reason[:REASON_LIMIT],
                    body,
                    KEPT_S,
                ],
            )
        return bool(answer)
