"""Rates and quantiles between two looks, as `sandlot top` shows them."""

from __future__ import annotations

from typing import Any

import pytest

from api.routes.system import status_document
from sandlot.cli.status import Rate, quantile, rates
from sandlot.jobs.stats import FunctionStats, QueueLoad, QueueLoads, WorkerLoad

BOUNDS_S = (0.1, 0.2, 0.4)


@pytest.mark.parametrize(
    ("share", "buckets", "expected_s"),
    [
        (0.5, [10, 0, 0, 0], 0.05),
        (0.5, [0, 10, 0, 0], 0.15),
        (0.99, [0, 100, 0, 0], 0.199),
        (0.99, [98, 0, 2, 0], 0.3),
        (0.5, [0, 0, 0, 5], 0.4),
        (0.5, [0, 0, 0, 0], None),
        (0.5, [], None),
    ],
)
def test_a_quantile_lies_within_its_bucket(share: float, buckets: list[int], expected_s: float | None) -> None:
    found_s = quantile(share, buckets, BOUNDS_S)
    assert found_s == (expected_s if expected_s is None else pytest.approx(expected_s))


def look(**functions: tuple[int, int, list[int]]) -> dict[str, Any]:
    return {
        "bounds_s": BOUNDS_S,
        "functions": [
            {"function": name, "ok": ok, "failed": failed, "buckets": buckets}
            for name, (ok, failed, buckets) in functions.items()
        ],
    }


def test_rates_are_what_happened_in_between() -> None:
    before = look(old=(10, 1, [11, 0, 0, 0]))
    after = look(old=(30, 2, [11, 21, 0, 0]), new=(2, 0, [2, 0, 0, 0]))
    assert rates(before, after, 10.0) == {
        "old": Rate(2.1, 1, pytest.approx(0.15), pytest.approx(0.199)),
        "new": Rate(0.2, 0, pytest.approx(0.05), pytest.approx(0.099)),
    }


def test_a_worker_that_left_makes_no_negative_rate() -> None:
    assert rates(look(f=(10, 5, [15, 0, 0, 0])), look(f=(3, 0, [3, 0, 0, 0])), 1.0)["f"] == Rate(0.0, 0, None, None)


def test_the_document_adds_up_workers_and_queues() -> None:
    stats = FunctionStats(2, 1, [1, 2])
    load = QueueLoads(
        5, 2, 0, 9, ["node", "python"],
        [QueueLoad("f", "python", 5, 2, 1.5)],
        [WorkerLoad("a", ["python"], 4, 2, {"f": stats, "g": stats}), WorkerLoad("b", ["node", "python"], 8, 0, {"f": stats})],
    )  # fmt: skip
    document: Any = status_document(load)
    node, python = document["placements"]
    assert (node["queued"], node["workers"], node["slots"], node["busy"]) == (0, 1, 8, 0)
    assert (python["queued"], python["oldest_wait_s"], python["workers"], python["slots"], python["busy"]) == (
        5,
        1.5,
        2,
        12,
        2,
    )
    f, g = document["functions"]
    assert (f["function"], f["ok"], f["failed"], f["buckets"], f["queued"]) == ("f", 4, 2, [2, 4], 5)
    assert (g["function"], g["ok"], g["queued"], g["oldest_wait_s"]) == ("g", 2, 0, 0.0)
