"""The envelope: the part of a job that a worker obeys, signed by the API.

Write access to Redis can delay, drop or replay work. Without the signing key it cannot make a
worker run anything.
"""

from __future__ import annotations

import hmac
from typing import Final, TypeVar

import msgspec

from sandlot.errors import UnsafeRecord
from sandlot.models import DEFAULT_RETRY, Invocation, OutcomeKind, RetryPolicy
from sandlot.signing import mac

DATA_PREFIX: Final = b'["sandlot.jobs.invoke",null,['
DATA_SUFFIX: Final = b"],{}]"
"""RQ's job data (func, instance, args, kwargs) as JSON. No Sandlot worker imports that name; it
shows a reader of RQ's hashes that the job is Sandlot's."""

Event = TypeVar("Event", bytes, memoryview)


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The invocation without its event, as the worker gets it."""

    job_id: str
    function: str
    version: int
    digest: str
    wall_limit_ms: int
    retry: RetryPolicy = DEFAULT_RETRY
    """Stands before every field that a caller chooses, because `take_back` in `prelude.lua`
    searches the JSON for `max_age_ms`."""
    traceparent: str = ""
    owner: str = ""
    request: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder: Final = msgspec.json.Decoder(Envelope)
_encoder: Final = msgspec.json.Encoder()


def seal(key: bytes, invocation: Invocation) -> bytes:
    """Return `<signature>|<attempts if workers are lost>|<not after, ms>|<json>`.

    The fields that the scripts read stand before the JSON.
    """
    envelope = Envelope(
        job_id=invocation.job_id,
        function=invocation.function,
        version=invocation.version,
        digest=invocation.digest,
        wall_limit_ms=invocation.wall_limit_ms,
        retry=invocation.retry,
        traceparent=invocation.traceparent,
        owner=invocation.owner,
        request=msgspec.Raw(invocation.request) if invocation.request else msgspec.UNSET,
    )
    text = b"%d|%d|%b" % (_attempts_if_lost(invocation.retry), invocation.not_after_ms, _encoder.encode(envelope))
    return mac(key, b"envelope", text, invocation.event) + b"|" + text


def _attempts_if_lost(retry: RetryPolicy) -> int:
    """Return how often a job runs if each of its workers is lost."""
    return retry.attempts if OutcomeKind.WORKER_LOST in retry.on else 1


def unseal(key: bytes, job_id: str, sealed: bytes, data: Event) -> tuple[Envelope, Event]:
    """Verify and return the envelope and the event. The event of a memoryview is a view of it, not
    a copy.

    Raises:
        UnsafeRecord: a holder of the key did not seal both for this job; neither may be obeyed.
    """
    if data[: len(DATA_PREFIX)] != DATA_PREFIX or data[-len(DATA_SUFFIX) :] != DATA_SUFFIX:
        raise UnsafeRecord(f"job {job_id} has data that Sandlot did not write; it was not executed")
    event = data[len(DATA_PREFIX) : -len(DATA_SUFFIX)]
    signature, _, text = sealed.partition(b"|")
    if not hmac.compare_digest(signature, mac(key, b"envelope", text, event)):
        raise UnsafeRecord(
            f"job {job_id} has no valid signature; it was not executed."
            " Do API and workers have the same SANDLOT_SIGNING_KEY?"
        )
    envelope = open_envelope(sealed)
    if envelope.job_id != job_id:
        raise UnsafeRecord(f"job {job_id} carries the envelope of job {envelope.job_id}; it was not executed")
    return envelope, event


def open_envelope(sealed: bytes) -> Envelope:
    """Read the envelope without verifying it: for display, never to obey.

    Raises:
        UnsafeRecord: it cannot be read.
    """
    try:
        return _decoder.decode(sealed.split(b"|", 3)[3])
    except (IndexError, msgspec.DecodeError) as error:
        raise UnsafeRecord(f"the envelope of a job cannot be read: {error}") from None
