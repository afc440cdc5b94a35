"""The benchmark judges and shows figures as they are: nothing missing is called reached, nothing failed has a median."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import contenders, report, verdicts
from benchmarks.chart import Bar, Panel, svg
from benchmarks.report import Run
from benchmarks.results import Drained, Results, Served, best
from benchmarks.verdicts import Verdict


def served(
    contender: str,
    cell: str,
    per_s: float = 1000.0,
    p50_ms: float = 1.0,
    p99_ms: float = 2.0,
    failed: str = "",
    number: int = 1,
) -> Served:
    return Served(contender, cell, number, 1000, per_s, p50_ms, p99_ms, 0.5, 64.0, failed=failed)


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 - our own text


def find(found: list[Verdict], target: str) -> Verdict:
    return next(verdict for verdict in found if target in verdict.target)


def run_of(results: Results) -> Run:
    return Run(
        date="2026-01-02 03:04 UTC",
        command="make bench",
        settings={"rounds": "3"},
        machine={"cores": "2", "processor": "A & B <C>"},
        contenders=contenders.everyone("everysec"),
        results=results,
        verdicts=verdicts.judge(results, "sandlot"),
    )


def test_median_over_rounds() -> None:
    results = Results(
        served=[
            served("fastapi", "hello@64", per_s, number=number)
            for number, per_s in ((1, 900.0), (2, 5000.0), (3, 1000.0))
        ]
    )
    row = results.cell("fastapi", "hello@64")
    assert row is not None
    assert row.per_s == 1000.0
    assert row.requests == 3000


def test_one_failed_round_fails_the_cell() -> None:
    results = Results(
        served=[served("celery", "hello@64"), served("celery", "hello@64", failed="3 of 1000 failed", number=2)]
    )
    row = results.cell("celery", "hello@64")
    assert row is not None
    assert row.failed == "3 of 1000 failed"


def test_a_contender_without_samples_has_no_median() -> None:
    assert Results().cell("fastapi", "hello@64") is None
    assert Results().drain("fastapi", "noop") is None
    assert best([]) is None


@pytest.mark.parametrize(("ours", "reached"), [(15000.0, True), (14999.0, False)])
def test_throughput_is_compared_with_bare_fastapi_showing_both_numbers(ours: float, reached: bool) -> None:
    results = Results(served=[served("sandlot", "hello@64", ours), served("fastapi", "hello@64", 15000.0)])
    verdict = find(verdicts.judge(results, "sandlot"), "bare FastAPI")
    assert verdict.reached is reached
    assert f"{ours:,.0f}" in verdict.measured
    assert "15,000" in verdict.measured


def test_the_fastest_python_queue_is_the_one_to_beat() -> None:
    rows = [served("sandlot", "hello@64", 6000.0), served("saq", "hello@64", 2400.0), served("arq", "hello@64", 1800.0)]
    verdict = find(verdicts.judge(Results(served=rows), "sandlot"), "fastest other Python queue")
    assert "(saq)" in verdict.target
    assert verdict.reached is False


def test_a_missing_or_failed_figure_is_never_reached() -> None:
    results = Results(
        served=[served("sandlot", "hello@64", 1e6), served("fastapi", "hello@64", 1.0, failed="wrong answer")]
    )
    assert find(verdicts.judge(results, "sandlot"), "bare FastAPI").word == "not measured"
    assert all(verdict.reached is None for verdict in verdicts.judge(Results(), "sandlot"))


@pytest.mark.parametrize(("p50_ms", "p99_ms", "reached"), [(10.0, 30.0, True), (10.0, 30.1, False)])
def test_tail_latency_is_compared_with_its_own_median(p50_ms: float, p99_ms: float, reached: bool) -> None:
    results = Results(served=[served("sandlot", "hello@64", p50_ms=p50_ms, p99_ms=p99_ms)])
    assert find(verdicts.judge(results, "sandlot"), " p50").reached is reached


def test_latency_alone_has_an_absolute_and_a_relative_goal() -> None:
    results = Results(served=[served("sandlot", "hello@1", p50_ms=0.9), served("fastapi", "hello@1", p50_ms=0.1)])
    found = verdicts.judge(results, "sandlot")
    assert find(found, "≤ 1.0 ms").reached is True
    assert find(found, "bare FastAPI + 0.7 ms").reached is False


def test_draining_is_compared_with_rq_the_fastest_peer_and_one_worker() -> None:
    rates = {
        ("sandlot", "noop"): 7000.0,
        ("rq-fork", "noop"): 200.0,
        ("taskiq", "noop"): 2400.0,
        ("sandlot", "cpu/1"): 180.0,
        ("sandlot", "cpu/2"): 350.0,
    }
    results = Results(drained=[Drained(name, workload, 1, 5000, 1.0, rate) for (name, workload), rate in rates.items()])
    found = verdicts.judge(results, "sandlot")
    assert find(found, "stock RQ").reached is True
    assert find(found, "fastest peer (taskiq)").reached is False
    assert find(found, "1 worker").reached is True


def test_chart_is_well_formed_and_shows_every_bar() -> None:
    panel = Panel(
        "A < B & C",
        "per second",
        [Bar("Sandlot", 1234.0, "ours"), Bar("x & <y>", 0.5), Bar("gone", None, note="no figure")],
    )
    root = parsed(svg('Title "quoted" & <tagged>', "sub", [panel]))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "1,234" in texts
    assert {"Sandlot", "x & <y>", "gone", "no figure"} <= set(texts)


def test_bars_stay_inside_the_picture_and_are_longest_first() -> None:
    root = parsed(svg("t", "s", [Panel("p", "u", [Bar("a", 3.0), Bar("b", 100_000.0), Bar("c", 10.0)])]))
    rectangles = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("rx")]
    widths = [float(element.get("width", "0")) for element in rectangles]
    assert widths == sorted(widths, reverse=True)
    assert all(float(element.get("x", "0")) + width < 920 for element, width in zip(rectangles, widths, strict=True))


def test_report_of_an_empty_run_is_still_a_report(tmp_path: Path) -> None:
    written = report.write(run_of(Results()), tmp_path, "benchmark")
    assert [path.suffix for path in written] == [".json", ".md", ".svg"]
    assert json.loads(written[0].read_text())["verdicts"][0]["verdict"] == "not measured"
    parsed(written[2].read_text())


def test_the_report_names_contenders_without_queue_durability_or_sandbox() -> None:
    rows = {row[0]: row[-3:] for row in report.rows(run_of(Results()))}
    assert rows["bare FastAPI"] == ["**no queue**", "**not durable**", "**no sandbox**"]
    assert rows["FastAPI + Celery (prefork)"] == ["yes", "yes", "**no sandbox**"]
    assert rows["Sandlot"] == ["yes", "yes", "strict sandbox"]


def test_report_lists_why_a_cell_failed() -> None:
    failed = Results(served=[served("celery", "hello@64", failed="3 of 1000 failed")])
    page = report.markdown(run_of(failed), "benchmark.svg")
    assert "- celery hello@64, round 1: 3 of 1000 failed" in page
    assert [row[3] for row in report.rows(run_of(failed)) if row[0] == "FastAPI + Celery (prefork)"] == ["failed"]


def test_every_contender_has_its_own_name() -> None:
    names = [contender.name for contender in contenders.everyone("everysec")]
    assert len(names) == len(set(names))
    assert set(verdicts.ALL_QUEUES) <= set(names)
