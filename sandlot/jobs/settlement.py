"""How a job ended, as it is recorded, published and read back.

Knows: the signed text of an end, its place in RQ's result stream. Does not know: keys in Redis, HTTP.
A worker signs what it witnessed. Three ends come about without a worker (a cancelled or expired job never ran; of a lost worker
nothing is heard), so those three may be unsigned; they carry no result.
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
"""RQ's `exc_string` of a job that no worker is left to report on."""


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded end of a job. `result` is the JSON text the function returned, empty unless `kind` is `ok`; of a large one `stored` says
    where it is, and `result` is empty."""

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
    """What is signed and stored in the job's hash: everything about the end but the result, which it names by its digest; a large one by those
    of its pieces as well."""

    kind: OutcomeKind
    attempt: int
    function: str = ""
    version: int = 0
    result_bytes: int = 0
    result_sha256: str = ""
    result_pieces: bytes = b""
    error: FunctionError | None = None
    evidence: Evidence | None = None
    timings: Timings = Timings()
    receipt: msgspec.Raw = msgspec.Raw(b"{}")


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(OutcomeRecord)

_RQ_STATUS: Final = {OutcomeKind.OK: "finished", OutcomeKind.CANCELLED: "canceled"}


class EncodedResult(msgspec.Struct, frozen=True):
    """A result as it is recorded: its SHA-256, and the base64 of RQ's `return_value` or, of one that is stored, its pieces' digests."""

    sha256: str
    value: bytes = b""
    digests: bytes = b""


def encode_result(result: bytes) -> EncodedResult:
    """Of a large result in a thread (`sandlot.offload`): base64 of 6 MiB takes 10 to 30 ms."""
    if not result:
        return EncodedResult("", b"")
    if len(result) <= CHUNK_BYTES:
        return EncodedResult(hashlib.sha256(result).hexdigest(), b2a_base64(result, newline=False))
    value = BytesIO()
    for piece in iter_chunks(result):
        value.write(b2a_base64(piece, newline=False))
    return EncodedResult(hashlib.sha256(result).hexdigest(), value.getvalue())


def encode_chunked_result(result: bytes) -> EncodedResult:
    """Of a result whose pieces are stored before its end is recorded; in a thread too."""
    sha256, digests = digests_of(result)
    return EncodedResult(sha256, digests=digests)


SealedOutcome = tuple[str, int, str, str, bytes, bytes, bytes, bytes]
"""What the step script takes per execution: id, attempt, RQ status, kind, signed end, stream value, raw result (or where it is), logs."""


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
    """An outcome, ready to be recorded; `encoded` if that was done before."""
    result = outcome.result if outcome.kind is OutcomeKind.OK else b""
    encoded = encoded or encode_result(result)
    end = _encoder.encode(
        OutcomeRecord(
            kind=outcome.kind,
            attempt=attempt,
            function=function,
            version=version,
            result_bytes=len(result),
            result_sha256=encoded.sha256,
            result_pieces=encoded.digests,
            error=outcome.error,
            evidence=outcome.evidence,
            timings=timings,
            receipt=msgspec.Raw(outcome.receipt or b"{}"),
        )
    )
    text = mac(key, b"end", job_id.encode(), end) + b" " + end
    value = encoded.value
    published = result if has_waiter and len(result) <= LARGE_RESULT_BYTES else b""
    if encoded.digests:
        stored = StoredResult(job_id, attempt, len(result), encoded.sha256, encoded.digests)
        value, published = _reference(stored), b"@%d" % stored.pieces
    if outcome.kind is not OutcomeKind.OK:
        value = failure_text(outcome)
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
    """What RQ's `return_value` is of a result that is stored: where, and which."""
    document = {"key": stored.key, "pieces": stored.pieces, "bytes": stored.size_bytes, "sha256": stored.sha256}
    return b2a_base64(_encoder.encode({"sandlot.result": document}), newline=False)


def failure_text(outcome: Outcome) -> bytes:
    """RQ's `exc_string` (rq/results.py): base64 of zlib of text. Only failures pay for it."""
    lines = [f"{outcome.kind.value}"]
    if outcome.error is not None:
        lines = [*outcome.error.stack_trace, f"{outcome.error.error_type}: {outcome.error.error_message}"]
    elif outcome.evidence is not None and outcome.evidence.detail:
        lines = [f"{outcome.kind.value}: {outcome.evidence.detail}"]
    return b2a_base64(zlib.compress("\n".join(lines).encode("utf-8", "backslashreplace"), 1), newline=False)


def read_outcome_record(key: bytes, job_id: str, text: bytes) -> OutcomeRecord:
    """
    Raises:
        UnsafeRecord: a worker of ours did not sign it, and it is not one of the ends that none signs.
    """
    signature, _, body = text.partition(b" ")
    try:
        end = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise UnsafeRecord(f"the recorded end of job {job_id} cannot be read: {error}") from None
    if signature == UNSIGNED:
        if end.kind in UNSIGNED_KINDS and not end.result_bytes:
            return end
    elif hmac.compare_digest(signature, mac(key, b"end", job_id.encode(), body)):
        return end
    raise UnsafeRecord(f"the recorded end of job {job_id} has no valid signature and is not believed")


def stored_result_from(job_id: str, end: OutcomeRecord) -> StoredResult | None:
    """Where the result is that an end names; nothing unless it is stored."""
    if not end.result_pieces:
        return None
    return StoredResult(job_id, end.attempt, end.result_bytes, end.result_sha256, end.result_pieces)


def job_result_from(job_id: str, end: OutcomeRecord, result: bytes, *, function: str, version: int) -> JobResult:
    """`result` is not looked at if it is stored: its pieces are checked as they are read.

    Raises:
        UnsafeRecord: the result is not the one the worker signed for.
    """
    stored = stored_result_from(job_id, end)
    if end.result_bytes and stored is None and hashlib.sha256(result).hexdigest() != end.result_sha256:
        raise UnsafeRecord(f"the recorded result of job {job_id} is not the one its worker signed")
    return JobResult(
        job_id=job_id,
        function=end.function or function,
        version=end.version or version,
        attempt=end.attempt,
        kind=end.kind,
        result=result if end.result_bytes and stored is None else b"",
        stored=stored,
        error=end.error,
        evidence=end.evidence,
        timings=end.timings,
        receipt=bytes(end.receipt),
    )


def decode_return_value(value: bytes) -> bytes:
    """The result out of RQ's `return_value`."""
    if len(value) <= CHUNK_BYTES:
        return a2b_base64(value)
    result = BytesIO()
    for piece in iter_chunks(value):
        result.write(a2b_base64(piece))
    return result.getvalue()
