"""Sandlot's performance goals, compared with the figures of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.results import Results, best

PYTHON_QUEUES: Final = ("rq-simple", "dramatiq", "arq", "saq", "taskiq")
"""Candidates for "the fastest other Python queue".

RQ's fork worker and Celery have goals of their own.
"""
ALL_QUEUES: Final = ("rq-fork", "celery", *PYTHON_QUEUES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal for one way of running Sandlot.

    `reached` is None if a figure is missing or failed.
    """

    goal: str
    contender: str
    measured: str
    target: str
    reached: bool | None

    @property
    def word(self) -> str:
        return {True: "reached", False: "not reached", None: "not measured"}[self.reached]


def at_least(
    goal: str, contender: str, figure: float | None, base: float | None, factor: float, unit: str, of: str
) -> Verdict:
    """Check `figure` ≥ `factor` × `base`; the measured text has both numbers and their ratio."""
    if figure is None or not base:
        return Verdict(goal, contender, "–", f"≥ {factor:g} × {of}", None)
    measured = f"{figure:,.0f} {unit}, {figure / base:.2f} × {base:,.0f}"
    return Verdict(goal, contender, measured, f"≥ {factor:g} × {of}", figure >= factor * base)


def at_most(goal: str, contender: str, figure: float | None, limit: float | None, target: str) -> Verdict:
    """Check `figure` ≤ `limit`, both in milliseconds."""
    if figure is None or limit is None:
        return Verdict(goal, contender, "–", target, None)
    return Verdict(goal, contender, f"{figure:.2f} ms (limit {limit:.2f})", target, figure <= limit)


def judge(results: Results, contender: str) -> list[Verdict]:
    """Return every goal for `contender`, which is one of Sandlot's rows."""
    return [*_throughput(results, contender), *_latency(results, contender), *_draining(results, contender)]


def _throughput(results: Results, contender: str) -> list[Verdict]:
    def per_s(name: str) -> float | None:
        row = results.cell(name, "hello@64")
        return None if row is None or row.failed else row.per_s

    fastest = best((value, name) for name in PYTHON_QUEUES if (value := per_s(name)) is not None)
    goals = [
        ("bare FastAPI", per_s("fastapi"), 1.0),
        ("FastAPI + RQ (fork worker)", per_s("rq-fork"), 50.0),
        ("FastAPI + Celery", per_s("celery"), 10.0),
        (
            f"the fastest other Python queue ({fastest[1]})" if fastest else "the fastest other Python queue",
            fastest[0] if fastest else None,
            3.0,
        ),
        ("Koa + safeify", per_s("koa-safeify"), 8.0),
    ]
    return [
        at_least("synchronous calls, 64 clients", contender, per_s(contender), base, factor, "calls/s", of)
        for of, base, factor in goals
    ]


def _latency(results: Results, contender: str) -> list[Verdict]:
    alone, bare, many = (
        results.cell(contender, "hello@1"),
        results.cell("fastapi", "hello@1"),
        results.cell(contender, "hello@64"),
    )
    alone_ms = None if alone is None or alone.failed else alone.p50_ms
    bare_ms = None if bare is None or bare.failed else bare.p50_ms + 0.7
    p50_ms = None if many is None or many.failed else many.p50_ms
    p99_ms = None if many is None or many.failed else many.p99_ms
    return [
        at_most("p50, 1 client", contender, alone_ms, 1.0, "≤ 1.0 ms"),
        at_most("p50, 1 client", contender, alone_ms, bare_ms, "≤ bare FastAPI + 0.7 ms"),
        at_most("p99, 64 clients", contender, p99_ms, None if p50_ms is None else 3 * p50_ms, "≤ 3 × p50"),
    ]


def _draining(results: Results, contender: str) -> list[Verdict]:
    def drain(name: str, workload: str = "noop") -> float | None:
        row = results.drain(name, workload)
        return None if row is None or row.failed else row.drain_per_s

    fastest = best((value, name) for name in ALL_QUEUES if (value := drain(name)) is not None)
    of = f"the fastest peer ({fastest[1]})" if fastest else "the fastest peer"
    goal = "draining 5,000 queued no-ops"
    verdicts = [
        at_least(goal, contender, drain(contender), drain("rq-fork"), 30.0, "jobs/s", "stock RQ (fork worker)"),
        at_least(goal, contender, drain(contender), fastest[0] if fastest else None, 3.0, "jobs/s", of),
    ]
    two = drain(contender, "cpu/2")
    if results.drain(contender, "cpu/1") is not None:
        verdicts.append(
            at_least(
                "draining a CPU-bound queue, 2 workers",
                contender,
                two,
                drain(contender, "cpu/1"),
                1.9,
                "jobs/s",
                "1 worker",
            )
        )
    return verdicts
