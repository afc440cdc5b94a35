"""Jobs in hand are for short runs, and for no longer than one may wait for its slot."""

from __future__ import annotations

import pytest

from worker.engine.dispatcher import PREFETCH_PER_SLOT, SHORT_RUN_MS, Prefetch


def after(run_ms: float, runs: int = 100) -> Prefetch:
    prefetch = Prefetch()
    for _ in range(runs):
        prefetch.note_run(run_ms)
    return prefetch


def test_a_worker_that_has_run_nothing_yet_holds_nothing() -> None:
    assert Prefetch().limit(8) == 0


@pytest.mark.parametrize(
    ("run_ms", "per_slot"),
    [(0.0, PREFETCH_PER_SLOT), (0.1, PREFETCH_PER_SLOT), (1.0, 9), (2.0, 4), (4.0, 2), (SHORT_RUN_MS, 0), (200.0, 0)],
)
def test_the_last_in_hand_waits_about_ten_milliseconds(run_ms: float, per_slot: int) -> None:
    assert after(run_ms).limit(8) == 8 * per_slot


def test_one_long_run_stops_prefetching_for_some_runs_not_for_hundreds() -> None:
    prefetch = after(0.1)
    for _ in range(3):
        prefetch.note_run(60_000)
    assert prefetch.limit(8) == 0
    for _ in range(20):
        prefetch.note_run(0.1)
    assert prefetch.limit(8) > 0


def test_a_job_that_waited_in_vain_shuts_it_at_once() -> None:
    prefetch = after(0.1)
    prefetch.note_waited_too_long()
    assert prefetch.limit(8) == 0
