"""The body of a callback and its signature.

Both follow Standard Webhooks, specification 1.0 (github.com/standard-webhooks/standard-webhooks).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sandlot.jobs.callbacks import CallbackRequest
from sandlot.jobs.settlement import OutcomeRecord
from sandlot.models import status_of

BODY_LIMIT_BYTES: Final = 20_000
"""The size that the specification advises to stay below; a longer result is behind its link."""
RESULT_LIMIT_BYTES: Final = 12_000
"""Leaves room for an error's stack, timings and evidence."""
TYPE: Final = "invocation.completed"
_STACK_LIMIT: Final = 20
_TEXT_LIMIT: Final = 2_000


def compose(order: CallbackRequest, end: OutcomeRecord, ended_ms: int, result: bytes) -> bytes:
    """Return the body, JSON text shorter than `BODY_LIMIT_BYTES`.

    Args:
        result: JSON text to include; empty if there is none or it is too long.
    """
    path = f"/v1/jobs/{order.job_id}"
    data: dict[str, Any] = {
        "id": order.job_id,
        "function": order.function,
        "version": order.version,
        "digest": order.digest,
        "status": status_of(end.kind),
        "outcome": end.kind,
        "attempt": end.attempt,
        "ended_at": _iso(ended_ms),
        "result_bytes": end.result_bytes,
    }
    if result:
        data["result"] = msgspec.Raw(result)
    if end.error is not None:
        data["error"] = {
            "errorType": end.error.error_type[:_TEXT_LIMIT],
            "errorMessage": end.error.error_message[:_TEXT_LIMIT],
        }
    if end.evidence is not None:
        data["evidence"] = msgspec.structs.replace(end.evidence, stack=end.evidence.stack[-_STACK_LIMIT:])
    data |= {"timings": end.timings, "links": {"self": path, "result": f"{path}/result", "logs": f"{path}/logs"}}
    body = msgspec.json.encode({"type": TYPE, "timestamp": _iso(ended_ms), "data": data})
    if len(body) < BODY_LIMIT_BYTES:
        return body
    data.pop("evidence", None)
    return msgspec.json.encode({"type": TYPE, "timestamp": _iso(ended_ms), "data": data})


def signed_headers(keys: Sequence[bytes], job_id: str, now_s: int, body: bytes) -> list[tuple[str, str]]:
    """Return the three headers of the specification.

    The signature header has one signature per key, so that a receiver with any of the keys can
    verify it.

    Args:
        now_s: time of this try, seconds since the epoch; receivers refuse one that is minutes old.
    """
    message_id = f"msg_{job_id}"  # the same on every try, so that a receiver can drop duplicates
    signed = b"%b.%d.%b" % (message_id.encode(), now_s, body)
    signatures = [b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return [
        ("webhook-id", message_id),
        ("webhook-timestamp", str(now_s)),
        ("webhook-signature", " ".join(f"v1,{signature}" for signature in signatures)),
    ]


def next_traceparent(traceparent: str) -> str:
    """Return the same trace with a new parent span (W3C Trace Context, section 3.2.2.4)."""
    version, trace_id, _parent, flags = traceparent.split("-")
    return f"{version}-{trace_id}-{secrets.token_hex(8)}-{flags}"


def _iso(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
