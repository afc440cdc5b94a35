"""The schedule of a run: all contenders, one at a time, in a different order each round.

Because rounds interleave, a machine that is slower for a minute is slower for every contender, and
medians remove most of the rest.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks import drains, load, sandlot_drains
from benchmarks.contenders import SANDLOT, Contender, sandlot_up
from benchmarks.drains import Plan
from benchmarks.environment import Environment
from benchmarks.hosting import Hosted, hosted
from benchmarks.load import LoadFailed
from benchmarks.results import Drained, Results, Served
from benchmarks.servers import ServerFailed
from benchmarks.submitter import SubmitFailed
from benchmarks.workloads import FULL as FULL_CELLS
from benchmarks.workloads import Cell, Workload

MIB: Final = 1024 * 1024
WARM_UP_S: Final = 1.0
SLOW_CELL_S: Final = 4.0
"""Untuned pollers take up to a second per call: a shorter cell would contain only one or two."""
_FAILURES: Final = (
    ServerFailed,
    LoadFailed,
    SubmitFailed,
    TimeoutError,
    OSError,
    http.client.HTTPException,
    ValueError,
    KeyError,
)
"""Exceptions that a misbehaving contender causes; they fail its cell, not the run."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The number of rounds and the duration of their parts."""

    rounds: int
    cell_s: float
    noops: Plan
    burns: Plan
    limit_s: float
    """No contender is started after this time; missing figures are shown as missing."""


FULL: Final = Schedule(
    3, 4.0, Plan(jobs=5000, every=50, limit_s=10.0), Plan(jobs=600, every=10, limit_s=30.0), limit_s=24 * 60.0
)
QUICK: Final = Schedule(
    1, 2.0, Plan(jobs=5000, every=50, limit_s=3.0), Plan(jobs=300, every=10, limit_s=20.0), limit_s=4.5 * 60.0
)


def measure(
    contenders: Sequence[Contender],
    environment: Environment,
    cpus: int,
    schedule: Schedule,
    tell: Callable[[str], None],
) -> Results:
    """Run the whole schedule for these contenders.

    `tell` is called with one line per figure as it is measured.
    """
    results, deadline_s = Results(), time.monotonic() + schedule.limit_s
    for number in range(1, schedule.rounds + 1):
        shift = (number - 1) * len(contenders) // schedule.rounds
        for contender in [*contenders[shift:], *contenders[:shift]]:
            if time.monotonic() > deadline_s:
                tell(f"round {number}  {contender.label}: left out, {schedule.limit_s / 60:.1f} minutes are over")
                continue
            _serve(contender, environment, cpus, schedule, number, results, tell)
            if contender.drains and contender.workers is not None:
                _note(results, _drain_peer(contender, environment, cpus, schedule, number), tell)
        if SANDLOT in contenders and time.monotonic() < deadline_s:
            for workers in (1, 2):
                _note(results, _drain_burns(environment, cpus, schedule, number, workers), tell)
    return results


def _serve(
    contender: Contender,
    environment: Environment,
    cpus: int,
    schedule: Schedule,
    number: int,
    results: Results,
    tell: Callable[[str], None],
) -> None:
    try:
        with hosted(contender, environment, cpus) as host:
            seconds, warm = schedule.cell_s if contender.cells == FULL_CELLS else max(schedule.cell_s, SLOW_CELL_S), ""
            for cell in contender.cells:
                if cell.workload.function != warm:
                    _warm_up(host, cell.workload)
                    warm = cell.workload.function
                served = _cell(host, cell, seconds, number)
                results.served.append(served)
                tell(_line(served))
            if contender.drains and contender.workers is None:
                _note(results, _drain_sandlot(host, schedule.noops, number), tell)
    except _FAILURES as error:
        measured = {
            served.cell for served in results.served if (served.contender, served.round) == (contender.name, number)
        }
        for cell in contender.cells:
            if cell.name not in measured:
                results.served.append(Served(contender.name, cell.name, number, failed=str(error)))
        tell(f"round {number}  {contender.label}: FAILED: {error}")


def _warm_up(host: Hosted, workload: Workload) -> None:
    """Send a function's first calls, which fill pools and caches, before any measurement."""
    url, headers = host.url(workload.function), dict(host.contender.headers)
    clients = max(cell.clients for cell in host.contender.cells if cell.workload == workload)
    load.run(url, workload.event, headers, clients=clients, duration_s=WARM_UP_S)


def _cell(host: Hosted, cell: Cell, duration_s: float, number: int) -> Served:
    name = host.contender.name
    try:
        host.check(cell.workload)
        cpu_before_s = host.servers.cpu_s()
        found = load.run(
            host.url(cell.workload.function),
            cell.workload.event,
            dict(host.contender.headers),
            clients=cell.clients,
            duration_s=duration_s,
        )
        cpu_used_s = host.servers.cpu_s() - cpu_before_s
        host.servers.check_alive()
    except _FAILURES as error:
        return Served(name, cell.name, number, failed=str(error))
    memory = host.servers.memory()
    served = Served(
        contender=name,
        cell=cell.name,
        round=number,
        requests=found.requests,
        per_s=found.per_s,
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        cpu_s_per_1000=cpu_used_s / max(1, found.requests) * 1000,
        memory_mib=memory.bytes / MIB,
        memory_exact=memory.exact,
        errors=found.errors,
    )
    return (
        replace(served, failed=f"{found.errors} of {found.requests} failed")
        if found.errors or not found.requests
        else served
    )


def _drain_peer(contender: Contender, environment: Environment, cpus: int, schedule: Schedule, number: int) -> Drained:
    try:
        return drains.drain(contender, environment, cpus, schedule.noops, number)
    except _FAILURES as error:
        return Drained(contender.name, "noop", number, failed=str(error))


def _drain_sandlot(host: Hosted, plan: Plan, number: int) -> Drained:
    try:
        return sandlot_drains.drain(host, "noop", "noop", plan, number)
    except _FAILURES as error:
        return Drained(host.contender.name, "noop", number, failed=str(error))


def _drain_burns(environment: Environment, cpus: int, schedule: Schedule, number: int, workers: int) -> Drained:
    """Measure a CPU-bound queue with workers of one slot each.

    This shows what a second worker adds, not a second slot.
    """
    workload = f"cpu/{workers}"
    contender = replace(SANDLOT, front=sandlot_up("--workers", str(workers), SANDLOT_SLOTS="1"))
    try:
        with hosted(contender, environment, cpus) as host:
            return sandlot_drains.drain(host, "cpu", workload, schedule.burns, number)
    except _FAILURES as error:
        return Drained(contender.name, workload, number, failed=str(error))


def _note(results: Results, drained: Drained, tell: Callable[[str], None]) -> None:
    results.drained.append(drained)
    figures = drained.failed or f"submitted {drained.submit_per_s:,.0f}/s, drained {drained.drain_per_s:,.0f}/s"
    tell(
        f"round {drained.round}  {drained.contender:<20} {drained.workload:<9} {'FAILED: ' if drained.failed else ''}{figures}"
    )


def _line(served: Served) -> str:
    figures = (
        f"FAILED: {served.failed}"
        if served.failed
        else f"{served.per_s:>9,.0f}/s  p50 {served.p50_ms:>8.2f} ms  p99 {served.p99_ms:>8.2f} ms  {served.cpu_s_per_1000:>6.2f} CPU s/1000"
    )
    return f"round {served.round}  {served.contender:<20} {served.cell:<9} {figures}"
