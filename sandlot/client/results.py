"""What the API's answers mean.

Knows: outcomes, headers, problem documents. Does not know: which call was answered, connections.
"""

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
"""A decoded JSON value, as the caller of this client gets or gives it."""

ABSENT: Final[Mapping[str, Json]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InvokeResult:
    """How a synchronous call ended, whoever is to blame for the way it did."""

    outcome: OutcomeKind
    value: bytes
    """The JSON text that the function returned, as it came; empty unless `outcome` is `ok`."""
    job_id: str
    version: str
    timings: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage: `queued, boot, import, run, settle, total`."""
    problem: Mapping[str, Json] = field(default_factory=lambda: ABSENT)
    """The problem document of a call that did not end well: `code`, `detail`, `error`, `evidence`, `job`."""

    @property
    def ok(self) -> bool:
        return self.outcome is OutcomeKind.OK

    def json(self) -> Json:
        return msgspec.json.decode(self.value)


def problem_of(reply: httpx.Response) -> SandlotError:
    """The exception that a problem document stands for; `fields` has all of its members, with `status`."""
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
    """`run;dur=1.5, total;dur=2` as a dict (W3C Server Timing)."""
    timings = {}
    for metric in header.split(","):
        name, _, duration = metric.strip().partition(";dur=")
        if duration:
            timings[name] = float(duration)
    return timings


def _retry_after_s(document: dict[str, object], header: str) -> float:
    """The problem's own member, which has fractions; the header, if a proxy answered."""
    exactly = document.get("retry_after_s")
    if isinstance(exactly, int | float):
        return float(exactly)
    return float(header) if header.isdigit() else 1.0
