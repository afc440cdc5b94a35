"""Drain rates of the peers' queues.

Each peer fills its queue through its own API while no worker runs; then its workers empty it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.contenders import Contender, Place
from benchmarks.environment import PEERS, Environment
from benchmarks.hosting import place_for
from benchmarks.results import Drained
from benchmarks.servers import ServerFailed, Servers, clean_environment

ENQUEUE_LIMIT_S: Final = 60.0
FIRST_MARK_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of no-ops, the interval of marks among them, and how long to watch.

    The rate of a slow queue does not need a full drain.
    """

    jobs: int
    every: int
    limit_s: float


def parse_marks(lines: Iterable[str]) -> list[tuple[int, float]]:
    """Return (index, seconds) of each complete line by time; the last line may be incomplete."""
    marks = [line.split() for line in lines if line.endswith("\n")]
    return sorted(((int(index), float(at_s)) for index, at_s in marks), key=lambda mark: mark[1])


def rate(marks: list[tuple[int, float]]) -> float:
    """Return jobs per second between first and last mark, which excludes the worker's start.

    Raises:
        ValueError: fewer than two marks, or no time between them.
    """
    if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
        raise ValueError(f"{len(marks)} marks are too few for a rate")
    first, last = marks[0], max(marks)
    return (last[0] - first[0]) / (last[1] - first[1])


def drain(contender: Contender, environment: Environment, cpus: int, plan: Plan, round_number: int) -> Drained:
    """Measure submit and drain rate of a peer with a queue.

    Raises:
        ServerFailed: the queue could not be filled, or was not emptied.
    """
    if contender.workers is None:
        raise ServerFailed(f"{contender.name} has no queue to drain")
    with place_for(contender, environment, cpus) as (place, servers):
        submit_per_s = _fill(contender, place, plan)
        servers.start(contender.workers(place))
        marks = _watch(place.run_dir / "marks", servers, plan)
    return Drained(contender.name, "noop", round_number, plan.jobs, submit_per_s, rate(marks))


def _fill(contender: Contender, place: Place, plan: Plan) -> float:
    program = contender.front(place)  # for the interpreter and variables; all peers' files are in one folder
    argv = [program.argv[0], str(PEERS / "enqueue.py"), contender.module, str(plan.jobs), str(plan.every)]
    variables = clean_environment() | program.environment
    try:
        ran = subprocess.run(
            argv, env=variables, cwd=PEERS, capture_output=True, text=True, timeout=ENQUEUE_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"enqueueing {plan.jobs} jobs took more than {ENQUEUE_LIMIT_S:.0f} s") from error
    if ran.returncode != 0:
        raise ServerFailed(f"enqueueing ended with {ran.returncode}: {ran.stderr.strip()[-500:]}")
    return plan.jobs / float(json.loads(ran.stdout.splitlines()[-1])["seconds"])


def _watch(path: Path, servers: Servers, plan: Plan) -> list[tuple[int, float]]:
    """Return the marks as soon as the last one exists, or `limit_s` after the first."""
    last_index = (plan.jobs - 1) // plan.every * plan.every
    deadline_s = time.monotonic() + FIRST_MARK_LIMIT_S
    started = False
    while True:
        servers.check_alive()
        marks = _read(path)
        if marks and not started:
            started, deadline_s = True, time.monotonic() + plan.limit_s
        if len(marks) == last_index // plan.every + 1 or (time.monotonic() > deadline_s and len(marks) > 1):
            return marks
        if time.monotonic() > deadline_s + FIRST_MARK_LIMIT_S:
            raise ServerFailed(f"{len(marks)} marks after {FIRST_MARK_LIMIT_S:.0f} s: {servers.log_tail()}")
        time.sleep(0.1)


def _read(path: Path) -> list[tuple[int, float]]:
    if not path.exists():
        return []
    with path.open(encoding="ascii") as lines:
        return parse_marks(lines)
