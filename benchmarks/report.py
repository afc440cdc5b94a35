"""Reports of a run: JSON for machines, Markdown for the README, SVG for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chart import Bar, Panel, svg
from benchmarks.contenders import Contender
from benchmarks.results import Results, Served
from benchmarks.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Run:
    """One run and everything needed to read its figures."""

    date: str
    command: str
    settings: Mapping[str, str]
    machine: Mapping[str, str]
    contenders: Sequence[Contender]
    results: Results
    verdicts: Sequence[Verdict]


COLUMNS = (
    "",
    "1 client: p50 ms",
    "16: req/s",
    "64: req/s",
    "p50 / p99 ms",
    "× bare FastAPI",
    "Sandlot ×",
    "1 kB echo, 64: req/s",
    "5 ms CPU, 16: req/s",
    "CPU s / 1,000",
    "MiB",
    "queue",
    "durable",
    "sandbox",
)
QUEUE_COLUMNS = ("", "submitted/s", "drained/s", "Sandlot ×")


def write(run: Run, folder: Path, stem: str) -> list[Path]:
    """Write `stem`.json, .md and .svg to `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"json": _json(run), "md": markdown(run, f"{stem}.svg"), "svg": picture(run)}
    for suffix, text in texts.items():
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
    return [folder / f"{stem}.{suffix}" for suffix in texts]


def rows(run: Run) -> list[list[str]]:
    """Return the synchronous table, a list of texts per contender, in the order of COLUMNS."""
    return [_row(run, contender) for contender in run.contenders]


def queue_rows(run: Run) -> list[list[str]]:
    """Return the queue table of contenders with a queue, in the order of QUEUE_COLUMNS."""
    ours = run.results.drain("sandlot", "noop")
    table = []
    for contender in run.contenders:
        drained = run.results.drain(contender.name, "noop")
        if drained is not None:
            if drained.failed:
                table.append([contender.label, "failed", "failed", "–"])
            else:
                ratio = f"{ours.drain_per_s / drained.drain_per_s:.1f}" if ours is not None and not ours.failed else "–"
                table.append([contender.label, f"{drained.submit_per_s:,.0f}", f"{drained.drain_per_s:,.0f}", ratio])
    return table


def failures(run: Run) -> list[str]:
    """Return the reasons why cells have no figure, each once."""
    reasons = [
        f"{row.contender} {row.cell}, round {row.round}: {row.failed}" for row in run.results.served if row.failed
    ]
    reasons += [
        f"{row.contender} {row.workload}, round {row.round}: {row.failed}" for row in run.results.drained if row.failed
    ]
    return reasons


def _row(run: Run, contender: Contender) -> list[str]:
    def cell(name: str) -> Served | None:
        return run.results.cell(contender.name, name)

    many = cell("hello@64")
    return [
        contender.label,
        _figure(cell("hello@1"), lambda row: f"{row.p50_ms:.2f}"),
        _figure(cell("hello@16"), lambda row: f"{row.per_s:,.0f}"),
        _figure(many, lambda row: f"{row.per_s:,.0f}"),
        _figure(many, lambda row: f"{row.p50_ms:.1f} / {row.p99_ms:.1f}"),
        _ratio(many, run.results.cell("fastapi", "hello@64")),
        _ratio(run.results.cell("sandlot", "hello@64"), many),
        _figure(cell("echo@64"), lambda row: f"{row.per_s:,.0f}"),
        _figure(cell("cpu@16"), lambda row: f"{row.per_s:,.0f}"),
        _figure(many, lambda row: f"{row.cpu_s_per_1000:.2f}"),
        _figure(many, lambda row: f"{'' if row.memory_exact else '≤ '}{row.memory_mib:,.0f}"),
        "yes" if contender.queue else "**no queue**",
        "yes" if contender.durable else "**not durable**",
        contender.sandbox if contender.sandbox != "no" else "**no sandbox**",
    ]


def _figure(row: Served | None, shown: Callable[[Served], str]) -> str:
    if row is None:
        return "–"
    return "failed" if row.failed else shown(row)


def _ratio(upper: Served | None, lower: Served | None) -> str:
    if upper is None or lower is None or upper.failed or lower.failed:
        return "–"
    ratio = upper.per_s / lower.per_s
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _json(run: Run) -> str:
    document = {
        "date": run.date,
        "command": run.command,
        "settings": dict(run.settings),
        "machine": dict(run.machine),
        "contenders": [
            {"name": c.name, "label": c.label, "queue": c.queue, "durable": c.durable, "sandbox": c.sandbox}
            for c in run.contenders
        ],
        "verdicts": [asdict(verdict) | {"verdict": verdict.word} for verdict in run.verdicts],
        "medians": {
            c.name: {cell.name: asdict(row) for cell in c.cells if (row := run.results.cell(c.name, cell.name))}
            for c in run.contenders
        },
        "served": [asdict(row) for row in run.results.served],
        "drained": [asdict(row) for row in run.results.drained],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def markdown(run: Run, picture_name: str) -> str:
    """Return a Markdown page with the tables and the machine's description."""
    parts = [
        "# Benchmark\n",
        f"`{run.command}` on {run.date}. {' '.join(f'{value}.' for value in run.settings.values())}\n",
        f"![Sandlot beside its peers]({picture_name})\n",
        "## Goals\n",
        _table(
            ("goal", "", "target", "measured", ""),
            [[v.goal, v.contender, v.target, v.measured, f"**{v.word}**"] for v in run.verdicts],
        ),
        "## Synchronous calls\n",
        '`hello` returns `{"message": "it works!", "status": "ok "}`. CPU and memory are the whole process tree\'s, Valkey\'s included, at 64 clients.\n',
        _table(COLUMNS, rows(run)),
        '"Durable" only says that a queued job survives a restart of the queue\'s server. The fate of a job whose worker dies differs between peers.\n',
        "## Queues\n",
        "5,000 no-ops. Sandlot's queue is filled over HTTP (202) while its slots are held; the others are filled through their own API, from one process, while no worker runs.\n",
        _table(QUEUE_COLUMNS, queue_rows(run)),
        "## Machine\n",
        _table(("", ""), [[name, value] for name, value in run.machine.items()]),
    ]
    if reasons := failures(run):
        parts += [
            "## Cells without a figure\n",
            "\n".join(f"- {reason.splitlines()[0][:300]}" for reason in reasons) + "\n",
        ]
    return "\n".join(parts)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in body]
    return "\n".join(lines) + "\n"


def picture(run: Run) -> str:
    """Return the chart's panels: throughput, latency and drain."""

    def bars(value: Callable[[Contender], float | None], skip_missing: bool = False) -> list[Bar]:
        made = []
        for contender in run.contenders:
            figure = value(contender)
            if figure is None and skip_missing:
                continue
            kind = "ours" if contender.name.startswith("sandlot") else "bare" if contender.name == "fastapi" else "peer"
            made.append(Bar(contender.label, figure, kind, _gives(contender) if figure else "no figure"))
        return made

    def served(cell: str, field: str) -> Callable[[Contender], float | None]:
        def value(contender: Contender) -> float | None:
            row = run.results.cell(contender.name, cell)
            return None if row is None or row.failed else float(getattr(row, field))

        return value

    def drained(contender: Contender) -> float | None:
        row = run.results.drain(contender.name, "noop")
        return None if row is None or row.failed else row.drain_per_s

    subtitle = f"{run.date[:10]} · {run.machine['cores']} cores, {run.machine['processor']} · {run.command}"
    panels = [
        Panel("Synchronous calls, 64 clients", "calls per second", bars(served("hello@64", "per_s"))),
        Panel(
            "One client, median latency",
            "milliseconds, shorter is better",
            bars(served("hello@1", "p50_ms")),
            descending=False,
            decimals=2,
        ),
        Panel("Draining 5,000 queued no-ops", "jobs per second", bars(drained, skip_missing=True)),
    ]
    return svg("Sandlot and its alternatives", subtitle, panels)


def _gives(contender: Contender) -> str:
    """Describe in a few words what a contender guarantees besides an answer."""
    if not (contender.queue or contender.durable or contender.sandbox != "no"):
        return "no queue, not durable, no sandbox"
    sandbox = "no sandbox" if contender.sandbox == "no" else contender.sandbox
    return (
        f"{'queue' if contender.queue else 'no queue'}, {'durable' if contender.durable else 'not durable'}, {sandbox}"
    )
