"""Envelopes and ends are believed only with a signature of ours."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest

from sandlot.errors import InvalidSettings, UnsafeRecord
from sandlot.jobs.envelope import DATA_PREFIX, DATA_SUFFIX, seal, unseal
from sandlot.jobs.inspection import JOB_FIELDS, record_from
from sandlot.jobs.settlement import (
    OutcomeRecord,
    decode_return_value,
    encode_result,
    exc_string,
    job_result_from,
    read_outcome_record,
    seal_outcome,
)
from sandlot.models import FunctionError, Invocation, JobStatus, Outcome, OutcomeKind, RetryPolicy, Timings
from sandlot.offload import CHUNK_BYTES
from sandlot.redis.connection import parse_address
from sandlot.redis.lua import script

KEY, OTHER = b"k" * 32, b"o" * 32


def invocation(event: bytes = b'{"n":1}', **more: Any) -> Invocation:
    return Invocation(
        job_id="j",
        function="hello",
        version=3,
        digest="d",
        placement="python",
        event=event,
        wall_limit_ms=1000,
        result_ttl_s=60,
        **more,
    )


@pytest.mark.parametrize(("retried", "attempts"), [((OutcomeKind.WORKER_LOST,), b"4"), ((OutcomeKind.ERROR,), b"1")])
def test_the_envelope_says_how_often_a_job_may_lose_its_worker(
    retried: tuple[OutcomeKind, ...], attempts: bytes
) -> None:
    sealed = seal(KEY, invocation(retry=RetryPolicy(attempts=4, on=retried)))
    assert sealed.split(b"|")[1] == attempts


def data(event: bytes) -> bytes:
    return DATA_PREFIX + event + DATA_SUFFIX


def test_an_envelope_comes_back_as_it_was_sealed() -> None:
    """Request and event are carried as text."""
    sealed = seal(KEY, invocation(request=b'{"client":{"x":1}}', owner="o", traceparent="t"))
    envelope, event = unseal(KEY, "j", sealed, data(b'{"n":1}'))
    assert (envelope.function, envelope.version, envelope.owner, envelope.traceparent) == ("hello", 3, "o", "t")
    assert (event, bytes(envelope.request)) == (b'{"n":1}', b'{"client":{"x":1}}')


@pytest.mark.parametrize(
    ("key", "job_id", "text"),
    [(OTHER, "j", data(b'{"n":1}')), (KEY, "other", data(b'{"n":1}')), (KEY, "j", data(b'{"n":2}')), (KEY, "j", b'["os.system",null,["id"],{}]')],
)  # fmt: skip
def test_an_envelope_is_refused_with_another_key_job_or_event(key: bytes, job_id: str, text: bytes) -> None:
    """Whatever was exchanged, nothing is executed."""
    with pytest.raises(UnsafeRecord):
        unseal(key, job_id, seal(KEY, invocation()), text)


def test_every_changed_byte_of_an_envelope_is_noticed() -> None:
    """The fields that the scripts read stand in front of the JSON and are signed as well."""
    sealed = seal(KEY, invocation(not_after_ms=77))
    for at in range(len(sealed)):
        forged = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(UnsafeRecord):
            unseal(KEY, "j", forged, data(b'{"n":1}'))


def test_large_events_are_signed_like_small_ones() -> None:
    """Above 64 KiB the signature is computed in pieces."""
    event = json.dumps("x" * 200_000).encode()
    sealed = seal(KEY, invocation(event))
    assert unseal(KEY, "j", sealed, data(event))[1] == event
    with pytest.raises(UnsafeRecord):
        unseal(KEY, "j", sealed, data(event[:-2] + b'y"'))


def ended(kind: OutcomeKind = OutcomeKind.OK, result: bytes = b"[1]", **more: Any) -> Any:
    return seal_outcome(
        KEY, "j", 2, "hello", 3, Outcome(kind=kind, result=result, **more), Timings(run=1.25), has_waiter=True
    )


def test_an_end_comes_back_as_it_was_signed() -> None:
    """Function, version and attempt are part of what is signed."""
    job_id, attempt, status, kind, text, _, published, _ = ended()
    settled = job_result_from(job_id, read_outcome_record(KEY, job_id, text), published, function="", version=0)
    assert (attempt, status, kind) == (2, "finished", "ok")
    assert (settled.function, settled.version, settled.attempt, settled.result, settled.timings.run) == (
        "hello",
        3,
        2,
        b"[1]",
        1.25,
    )


def test_an_end_is_refused_with_another_key_or_job() -> None:
    """A signature of one job's end is none of another's."""
    text = ended()[4]
    for key, job_id in ((OTHER, "j"), (KEY, "i")):
        with pytest.raises(UnsafeRecord):
            read_outcome_record(key, job_id, text)


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_only_ends_that_no_worker_sees_may_be_unsigned(kind: OutcomeKind) -> None:
    """And they never carry a result."""
    unsigned = b"- " + msgspec.json.encode(OutcomeRecord(kind=kind, attempt=1))
    if kind in (OutcomeKind.CANCELLED, OutcomeKind.EXPIRED, OutcomeKind.WORKER_LOST):
        assert read_outcome_record(KEY, "j", unsigned).kind is kind
    else:
        with pytest.raises(UnsafeRecord):
            read_outcome_record(KEY, "j", unsigned)


def test_a_result_other_than_the_signed_one_is_refused() -> None:
    """The end names the result by its digest."""
    job_id, _, _, _, text, *_ = ended()
    with pytest.raises(UnsafeRecord):
        job_result_from(job_id, read_outcome_record(KEY, job_id, text), b"[2]", function="", version=0)


def test_a_failure_carries_no_result_even_if_it_had_one() -> None:
    """Only `ok` has a result."""
    _, _, status, _, text, _, published, _ = ended(OutcomeKind.ERROR)
    assert (status, published, read_outcome_record(KEY, "j", text).result_bytes) == ("failed", b"", 0)


def test_the_text_for_rq_survives_lone_surrogates() -> None:
    """A function may raise whatever it likes."""
    error = FunctionError(error_type="E", error_message="\ud800")
    assert exc_string(Outcome(kind=OutcomeKind.ERROR, error=error))


def test_a_foreign_hash_is_not_a_job() -> None:
    """Another RQ application may share the server."""
    assert record_from(KEY, "j", [b"queued", b"2026-01-01T00:00:00.000000Z", *[None] * (len(JOB_FIELDS) - 2)]) is None


def test_a_queued_jobs_record() -> None:
    """Times are milliseconds of Redis's clock."""
    fields: list[bytes | None] = [
        b"queued",
        b"2026-01-01T00:00:00.250000Z",
        seal(KEY, invocation()),
        *[None] * (len(JOB_FIELDS) - 3),
    ]
    record = record_from(KEY, "j", fields)
    assert record is not None
    assert (record.status, record.created_ms, record.attempt) == (JobStatus.QUEUED, 1767225600250, 0)


def test_addresses_show_no_password() -> None:
    """Neither in the shown form nor in the repr."""
    address = parse_address("rediss://me:secret@example.com:6380/2")
    assert (address.host, address.port, address.db, address.username, address.shown) == (
        "example.com", 6380, 2, "me", "rediss://example.com:6380/2",
    )  # fmt: skip
    assert address.tls is not None
    assert "secret" not in repr(address)


def test_an_invalid_url_is_refused_without_being_shown() -> None:
    """It may hold a password."""
    with pytest.raises(InvalidSettings) as caught:
        parse_address("http://u:secret@h")
    assert "secret" not in str(caught.value)


def test_scripts_that_finish_work_may_run_when_memory_is_full() -> None:
    """Redis reads the flags from the first line."""
    for name in ("settle_and_claim", "heartbeat", "reap", "release", "cancel", "worker_died"):
        assert script(name).text.startswith("#!lua flags=allow-oom\n")
    assert script("submit").text.startswith("#!lua\n")


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 2])
def test_a_result_is_recorded_in_pieces_as_it_would_be_in_one(size_bytes: int) -> None:
    result = (bytes(range(251)) * (size_bytes // 251 + 1))[:size_bytes]
    encoded = encode_result(result)
    assert encoded.value == base64.b64encode(result)
    assert encoded.sha256 == (hashlib.sha256(result).hexdigest() if result else "")
    assert decode_return_value(encoded.value) == result
