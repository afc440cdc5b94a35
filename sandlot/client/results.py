"""Results of calls, and the API's problem documents as exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import httpx
import msgspec

from sandlot.errors import CallerError, SandlotError, TryAgain, by_code
from sandlot.models import OutcomeKind

Json = Any
"""A decoded JSON value."""

NO_PROBLEM: Final[Mapping[str, Json]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InvokeResult:
    """Result of a synchronous call: success, the function's error, a limit, or a platform fault."""

    outcome: OutcomeKind
    value: bytes
    """The exact JSON text that the function returned; empty unless `outcome` is `ok`."""
    job_id: str
    version: str
    timings: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage: `queued`, `boot`, `import`, `run`, `settle`, `total`."""
    problem: Mapping[str, Json] = field(default_factory=lambda: NO_PROBLEM)
    """The problem document of a call that failed: `code`, `detail`, `error`, `evidence`, `job`."""

    @property
    def ok(self) -> bool:
        return self.outcome is OutcomeKind.OK

    def json(self) -> Json:
        """Decode `value`."""
        return msgspec.json.decode(self.value)


def error_from(reply: httpx.Response) -> SandlotError:
    """Return the exception for a reply with a problem document, of the class that the API raised.

    Its `fields` hold the other members of the document, among them `status`.
    """
    try:
        document = reply.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {
            "detail": f"{reply.request.url} answered {reply.status_code} without a problem document; is it a Sandlot API?"
        }
    fields = {name: value for name, value in document.items() if name not in ("detail", "retry_after_s")}
    message = str(document.get("detail") or document.get("title") or f"status {reply.status_code}")
    kind = by_code().get(str(document.get("code")), CallerError if reply.is_client_error else SandlotError)
    if issubclass(kind, TryAgain):
        return kind(message, retry_after_s=_retry_after_s(document, reply.headers.get("retry-after", "")), **fields)
    error = kind(message, **fields)
    error.code = str(document.get("code") or kind.code)
    return error


def read_server_timing(header: str) -> dict[str, float]:
    """Parse a Server-Timing header (W3C Server Timing): `run;dur=1.5, total;dur=2`."""
    timings = {}
    for metric in header.split(","):
        name, _, duration = metric.strip().partition(";dur=")
        if duration:
            timings[name] = float(duration)
    return timings


def _retry_after_s(document: dict[str, object], header: str) -> float:
    """Return the document's member, which has fractions; the header if a proxy answered."""
    seconds = document.get("retry_after_s")
    if isinstance(seconds, int | float):
        return float(seconds)
    return float(header) if header.isdigit() else 1.0
