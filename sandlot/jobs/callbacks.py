"""Webhook deliveries: requested with the job, due when it ends, delivered by any worker.

One script records the end of a job and the duty to report it (`finish` in `prelude.lua`), so
neither exists without the other. The URL and the outcome are signed: write access to Redis can
delay or suppress a callback, but cannot make a worker call a URL.
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
"""After this, another worker delivers what a dead one had claimed. Longer than the longest
delivery."""
STATE_TTL_S: Final = 86_400
"""The result of a callback is kept for a day, so that the job's document can show it."""
REASON_LIMIT: Final = 300
"""In characters; longer reasons are cut."""
STATE_FIELDS: Final = ("state", "tries", "status", "reason", "ended_ms")


class CallbackRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The callback that a caller requested with a job."""

    job_id: str
    function: str
    version: int
    digest: str
    url: str
    traceparent: str = ""


class Delivery(NamedTuple):
    """A worker's right to one try. `token` is its fencing token; `request` and `outcome` are as
    they were signed."""

    job_id: str
    token: int
    request: bytes
    outcome: bytes
    ended_ms: int
    tries: int
    """The number of tries before this one."""
    body: bytes
    """The body of the earlier tries; empty on the first."""


class ClaimedDeliveries(NamedTuple):
    """The claimed deliveries, and how long until the next is due or another worker's lease ends;
    `None` if there is none."""

    deliveries: list[Delivery]
    pause_s: float | None


class CallbackState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a job's callback: `waiting` (the job has not ended), `pending` (a try is due),
    `delivered` or `failed` (given up)."""

    state: str
    url: str
    tries: int = 0
    last_status: int | None = None
    reason: str = ""
    next_ms: int | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(CallbackRequest)


def seal_callback(key: bytes, invocation: Invocation) -> bytes:
    """Return `<signature>|<json>` for the callback of an invocation that has one."""
    request = CallbackRequest(
        invocation.job_id,
        invocation.function,
        invocation.version,
        invocation.digest,
        invocation.callback_url,
        invocation.traceparent,
    )
    text = _encoder.encode(request)
    return mac(key, b"callback", text) + b"|" + text


def open_callback(key: bytes, job_id: str, sealed: bytes) -> CallbackRequest:
    """Verify and read a sealed callback request.

    Raises:
        UnsafeRecord: it is not what was requested with this job.
    """
    signature, _, text = sealed.partition(b"|")
    if not hmac.compare_digest(signature, mac(key, b"callback", text)):
        raise UnsafeRecord(f"the callback of job {job_id} has no valid signature; no URL was called")
    try:
        request = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise UnsafeRecord(f"the callback of job {job_id} cannot be read: {error}") from None
    if request.job_id != job_id:
        raise UnsafeRecord(f"job {job_id} carries the callback of job {request.job_id}; no URL was called")
    return request


def state_from(
    key: bytes, job_id: str, sealed: bytes, found: list[bytes | None], due_ms: bytes | None
) -> CallbackState:
    """Build the state that the job's document shows.

    Args:
        found: the reply to HMGET of `STATE_FIELDS`.
        due_ms: the job's score in `keys.CALLBACKS`.

    Raises:
        UnsafeRecord: the request was tampered with.
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


class Callbacks:
    """Claims deliveries and records their results. Every method that talks to Redis raises
    QueueUnavailable when it does not answer."""

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        self._key = signing_key
        self._claim = redis.register_script(script("callback_claim").text)
        self._finish = redis.register_script(script("callback_finish").text)

    async def claim(self, limit: int) -> ClaimedDeliveries:
        """Claim up to `limit` deliveries that are due, each with a lease of `LEASE_MS`."""
        async with answering():
            found, next_ms, now_ms = await self._claim(keys=[], args=[LEASE_MS, limit])
        deliveries = [
            Delivery(job_id.decode(), int(token), request, outcome, int(ended_ms), int(tries), body)
            for job_id, token, request, outcome, ended_ms, tries, body in found
        ]
        return ClaimedDeliveries(deliveries, max(0.0, (float(next_ms) - int(now_ms)) / 1000) if next_ms else None)

    def read(self, delivery: Delivery) -> tuple[CallbackRequest, OutcomeRecord]:
        """Verify and read the request and the outcome of a delivery.

        Raises:
            UnsafeRecord: one of them is not what was signed for this job.
        """
        return open_callback(self._key, delivery.job_id, delivery.request), read_outcome_record(
            self._key, delivery.job_id, delivery.outcome
        )

    async def result(self, job_id: str, outcome: OutcomeRecord, limit_bytes: int) -> bytes:
        """Return the function's result; empty if it is larger than the limit, no longer kept, or
        not the one its worker signed."""
        if not 0 < outcome.result_bytes <= limit_bytes:
            return b""
        async with answering():
            entries = await self._redis.xrevrange(keys.RESULTS + job_id, count=1)
        if not entries:
            return b""
        fields = cast("dict[bytes, bytes]", entries[0][1])
        try:
            result = decode_return_value(fields.get(b"return_value", b""))
            return job_result_from(job_id, outcome, result, function=outcome.function, version=outcome.version).result
        except (ValueError, UnsafeRecord):
            return b""

    async def retry(
        self, delivery: Delivery, pause_s: float, *, tries: int, status: int | None, reason: str, body: bytes
    ) -> bool:
        """Schedule another try in `pause_s`. Return False if the lease was lost."""
        return await self._settle(delivery, "", round(pause_s * 1000), tries, status, reason, body)

    async def delivered(self, delivery: Delivery, *, tries: int, status: int) -> bool:
        """Record that the receiver accepted it. Return False if the lease was lost."""
        return await self._settle(delivery, "delivered", 0, tries, status, "", b"")

    async def failed(self, delivery: Delivery, *, tries: int, status: int | None, reason: str) -> bool:
        """Record that no further try will be made. Return False if the lease was lost."""
        return await self._settle(delivery, "failed", 0, tries, status, reason, b"")

    async def _settle(
        self, delivery: Delivery, state: str, pause_ms: int, tries: int, status: int | None, reason: str, body: bytes
    ) -> bool:
        async with answering():
            answer = await self._finish(
                keys=[],
                args=[
                    delivery.job_id,
                    delivery.token,
                    state,
                    pause_ms,
                    tries,
                    "" if status is None else status,
                    reason[:REASON_LIMIT],
                    body,
                    STATE_TTL_S,
                ],
            )
        return bool(answer)
