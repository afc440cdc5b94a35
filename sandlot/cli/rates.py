"""What happened between two looks at an installation.

Knows: the status document of the API. Does not know: how it is fetched or shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec

Status = Mapping[str, Any]


class Rate(msgspec.Struct, frozen=True):
    """Of one function. `p50_s` and `p99_s` are None without a call to judge by."""

    calls_per_s: float
    failed: int
    p50_s: float | None
    p99_s: float | None


def rates(before: Status, after: Status, seconds: float) -> dict[str, Rate]:
    """By function, of those in `after`. A worker that left or started anew takes its counts along: what would be negative is nothing."""
    known = {function["function"]: function for function in before["functions"]}
    return {
        function["function"]: _rate(known.get(function["function"], {}), function, seconds, after["bounds_s"])
        for function in after["functions"]
    }


def _rate(before: Status, after: Status, seconds: float, bounds_s: Sequence[float]) -> Rate:
    old = before.get("buckets") or [0] * len(after["buckets"])
    buckets = [max(0, new - past) for new, past in zip(after["buckets"], old, strict=False)]
    failed = max(0, after["failed"] - before.get("failed", 0))
    ok = max(0, after["ok"] - before.get("ok", 0))
    return Rate((ok + failed) / seconds, failed, quantile(0.5, buckets, bounds_s), quantile(0.99, buckets, bounds_s))


def quantile(share: float, buckets: Sequence[int], bounds_s: Sequence[float]) -> float | None:
    """Between the bounds of the bucket it falls into, evenly, as Prometheus's `histogram_quantile` does; the highest bound for what is above it."""
    total = sum(buckets)
    if not total:
        return None
    rank = share * total
    for index, reached in enumerate(accumulate(buckets)):
        if reached >= rank and buckets[index]:
            if index >= len(bounds_s):
                return bounds_s[-1]
            lower_s = bounds_s[index - 1] if index else 0.0
            within = (rank - (reached - buckets[index])) / buckets[index]
            return lower_s + (bounds_s[index] - lower_s) * within
    return bounds_s[-1]
