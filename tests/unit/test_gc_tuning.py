"""A process that serves is not stopped for what only looks like garbage."""

from __future__ import annotations

import subprocess
import sys

CALLS_IN_FLIGHT = """
import gc
from sandlot.gc_tuning import tune_gc
begun = []
gc.callbacks.append(lambda phase, info: begun.append(phase))
tune_gc()
begun.clear()
in_flight = [[] for _ in range(5000)]
some = len(begun)
cycles = []
for _ in range(50_000):
    cycle = []
    cycle.append(cycle)
    del cycle
print(some, len(begun) > 0, gc.get_freeze_count() > 0)
"""


def test_calls_in_flight_start_no_collection_and_cycles_still_do() -> None:
    ran = subprocess.run([sys.executable, "-c", CALLS_IN_FLIGHT], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", "True", "True"]
