"""The outcome of a job as it is signed, recorded, published and read back.

A worker signs the outcomes that it witnessed. Three kinds come about without a worker (a cancelled
or expired job never ran; a lost worker is silent), so those may be unsigned; they carry no result.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from binascii import a2b_base64, b2a_base64
from io import BytesIO
from typing import Final

import msgspec

from sandlot.errors import UnsafeRecord
from sandlot.jobs.large_results import LARGE_RESULT_BYTES, StoredResult, digests_of
from sandlot.models import Evidence, FunctionError, Outcome, OutcomeKind, Timings
from sandlot.offload import CHUNK_BYTES, iter_chunks
from sandlot.signing import mac

UNSIGNED: Final = b"-"
UNSIGNED_KINDS: Final = frozenset({OutcomeKind.CANCELLED, OutcomeKind.EXPIRED, OutcomeKind.WORKER_LOST})

LOST_EXC_STRING: Final = b2a_base64(
    zlib.compress(b"worker_lost: the worker that ran it stopped answering", 1), newline=False
)
"""RQ's `exc_string` of a job whose worker is not there to write one."""


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a job, read back and verified.

    `result` is the JSON text that the function returned, empty unless `kind` is `ok`. For a large
    result it is empty too, and `stored` says where the result is.
    """

    job_id: str
    function: str
    version: int
    attempt: int
    kind: OutcomeKind
    result: bytes = b""
    stored: StoredResult | None = None
    error: FunctionError | None = None
    evidence: Evidence | None = None
    timings: Timings = Timings()
    receipt: bytes = b"{}"


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The signed record in the job's hash: the whole outcome except the result, which it names by
    its digest, and a large one by the digests of its chunks as well."""

    kind: OutcomeKind
    attempt: int
    function: str = ""
    version: int = 0
    result_bytes: int = 0
    result_sha256: str = ""
    result_digests: bytes = msgspec.field(default=b"", name="result_pieces")
    error: FunctionError | None = None
    evidence: Evidence | None = None
    timings: Timings = Timings()
    receipt: msgspec.Raw = msgspec.Raw(b"{}")


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(OutcomeRecord)

_RQ_STATUS: Final = {OutcomeKind.OK: "finished", OutcomeKind.CANCELLED: "canceled"}


class EncodedResult(msgspec.Struct, frozen=True):
    """A result ready to be recorded: its SHA-256 and either the base64 of RQ's `return_value` or,
    if it is stored in chunks, their digests."""

    sha256: str
    value: bytes = b""
    digests: bytes = b""


def encode_result(result: bytes) -> EncodedResult:
    """Encode a result for RQ's stream.

    Run it in a thread for a large one (`sandlot.offload`): base64 of 6 MiB takes 10 to 30 ms.
    """
    if not result:
        return EncodedResult("", b"")
    if len(result) <= CHUNK_BYTES:
        return EncodedResult(hashlib.sha256(result).hexdigest(), b2a_base64(result, newline=False))
    value = BytesIO()
    for chunk in iter_chunks(result):
        value.write(b2a_base64(chunk, newline=False))
    return EncodedResult(hashlib.sha256(result).hexdigest(), value.getvalue())


def encode_chunked_result(result: bytes) -> EncodedResult:
    """Encode a result whose chunks are stored before its outcome is recorded. Run it in a
    thread."""
    sha256, digests = digests_of(result)
    return EncodedResult(sha256, digests=digests)


SealedOutcome = tuple[str, int, str, str, bytes, bytes, bytes, bytes]
"""The arguments of `settle_and_claim.lua` for one execution: id, attempt, RQ status, outcome kind,
signed outcome record, value for RQ's stream, raw result (or `@<chunks>`), logs."""


def seal_outcome(
    key: bytes,
    job_id: str,
    attempt: int,
    function: str,
    version: int,
    outcome: Outcome,
    timings: Timings,
    *,
    has_waiter: bool,
    encoded: EncodedResult | None = None,
) -> SealedOutcome:
    """Sign an outcome and prepare it for recording.

    Args:
        has_waiter: whether a caller waits, so that the result goes into the message as well.
        encoded: the encoded result, if that was done before.
    """
    result = outcome.result if outcome.kind is OutcomeKind.OK else b""
    encoded = encoded or encode_result(result)
    record = _encoder.encode(
        OutcomeRecord(
            kind=outcome.kind,
            attempt=attempt,
            function=function,
            version=version,
            result_bytes=len(result),
            result_sha256=encoded.sha256,
            result_digests=encoded.digests,
            error=outcome.error,
            evidence=outcome.evidence,
            timings=timings,
            receipt=msgspec.Raw(outcome.receipt or b"{}"),
        )
    )
    text = mac(key, b"end", job_id.encode(), record) + b" " + record
    value = encoded.value
    published = result if has_waiter and len(result) <= LARGE_RESULT_BYTES else b""
    if encoded.digests:
        stored = StoredResult(job_id, attempt, len(result), encoded.sha256, encoded.digests)
        value, published = _reference(stored), b"@%d" % stored.chunk_count
    if outcome.kind is not OutcomeKind.OK:
        value = exc_string(outcome)
    return (
        job_id,
        attempt,
        _RQ_STATUS.get(outcome.kind, "failed"),
        outcome.kind.value,
        text,
        value,
        published,
        outcome.logs,
    )


def _reference(stored: StoredResult) -> bytes:
    """Return the `return_value` in RQ's stream for a stored result: its location and digest."""
    document = {"key": stored.key, "pieces": stored.chunk_count, "bytes": stored.size_bytes, "sha256": stored.sha256}
    return b2a_base64(_encoder.encode({"sandlot.result": document}), newline=False)


def exc_string(outcome: Outcome) -> bytes:
    """Return RQ's `exc_string` (`rq/results.py`) for a failure: base64 of zlib of text."""
    lines = [f"{outcome.kind.value}"]
    if outcome.error is not None:
        lines = [*outcome.error.stack_trace, f"{outcome.error.error_type}: {outcome.error.error_message}"]
    elif outcome.evidence is not None and outcome.evidence.detail:
        lines = [f"{outcome.kind.value}: {outcome.evidence.detail}"]
    return b2a_base64(zlib.compress("\n".join(lines).encode("utf-8", "backslashreplace"), 1), newline=False)


def read_outcome_record(key: bytes, job_id: str, text: bytes) -> OutcomeRecord:
    """Verify and read the outcome record of a job.

    Raises:
        UnsafeRecord: no Sandlot worker signed it, and it is not one of the unsigned kinds.
    """
    signature, _, body = text.partition(b" ")
    try:
        record = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise UnsafeRecord(f"the recorded end of job {job_id} cannot be read: {error}") from None
    if signature == UNSIGNED:
        if record.kind in UNSIGNED_KINDS and not record.result_bytes:
            return record
    elif hmac.compare_digest(signature, mac(key, b"end", job_id.encode(), body)):
        return record
    raise UnsafeRecord(f"the recorded end of job {job_id} has no valid signature and is not believed")


def stored_result_from(job_id: str, outcome: OutcomeRecord) -> StoredResult | None:
    """Return the location of the result that an outcome names; `None` unless it is in chunks."""
    if not outcome.result_digests:
        return None
    return StoredResult(job_id, outcome.attempt, outcome.result_bytes, outcome.result_sha256, outcome.result_digests)


def job_result_from(job_id: str, outcome: OutcomeRecord, result: bytes, *, function: str, version: int) -> JobResult:
    """Join an outcome record and its result, which is verified here unless it is stored in chunks:
    those are verified as they are read.

    Args:
        function, version: for records that do not name them (the unsigned kinds).

    Raises:
        UnsafeRecord: the result is not the one that the worker signed.
    """
    stored = stored_result_from(job_id, outcome)
    if outcome.result_bytes and stored is None and hashlib.sha256(result).hexdigest() != outcome.result_sha256:
        raise UnsafeRecord(f"the recorded result of job {job_id} is not the one its worker signed")
    return JobResult(
        job_id=job_id,
        function=outcome.function or function,
        version=outcome.version or version,
        attempt=outcome.attempt,
        kind=outcome.kind,
        result=result if outcome.result_bytes and stored is None else b"",
        stored=stored,
        error=outcome.error,
        evidence=outcome.evidence,
        timings=outcome.timings,
        receipt=bytes(outcome.receipt),
    )


def decode_return_value(value: bytes) -> bytes:
    """Decode the result from RQ's `return_value`."""
    if len(value) <= CHUNK_BYTES:
        return a2b_base64(value)
    result = BytesIO()
    for chunk in iter_chunks(value):
        result.write(a2b_base64(chunk))
    return result.getvalue()
