"""`make bench`: measure Sandlot and its peers side by side, and write the figures down.

This module parses the command line and composes the benchmark.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console
from rich.table import Table

from benchmarks import contenders, environment, load, machine, process_tree, report, rounds, stages, verdicts
from benchmarks.contenders import Contender
from benchmarks.environment import CACHE, Environment, InstallFailed
from benchmarks.load import LoadFailed
from benchmarks.report import Run
from benchmarks.rounds import Schedule
from benchmarks.servers import ServerFailed
from benchmarks.valkey import Sync

PUBLISHED: Final = Path(__file__).with_name("results")
UNPUBLISHED: Final = CACHE / "results"


def main() -> int:
    options = _options()
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        wrk = load.find_wrk()
        chosen = _choose(options.only, options.durability)
        process_tree.adopt_orphans()
        console.print("Installing the peers (once) …")
        installed = environment.prepare()
        if options.profile:
            return _profile(installed, console)
    except (LoadFailed, InstallFailed, UnknownContender, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    chosen = _able(chosen, installed, console)
    schedule = rounds.QUICK if options.quick else replace(rounds.FULL, rounds=options.rounds)
    results = rounds.measure(
        chosen,
        installed,
        contenders.cpu_count(),
        schedule,
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    run = Run(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=" ".join(["make bench" if len(sys.argv) == 1 else "python -m benchmarks", *sys.argv[1:]]),
        settings=_settings(schedule, options.durability),
        machine=machine.describe(installed, wrk),
        contenders=chosen,
        results=results,
        verdicts=[
            verdict for c in chosen if c.name.startswith("sandlot") for verdict in verdicts.judge(results, c.name)
        ],
    )
    complete = not options.quick and not options.only
    stem = ("benchmark" if complete else "quick") + ("-always" if options.durability == "always" else "")
    written = report.write(run, PUBLISHED if complete else UNPUBLISHED, stem)
    _show(run, written, console)
    return 1 if report.failures(run) else 0


class UnknownContender(Exception):
    """Reject unknown names in `--only`; the message lists the known ones."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare Sandlot with its peers, in one run on this machine."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of 2 s per cell (under 5 minutes) instead of three of 4 s (under 25)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, 10),
        default=rounds.FULL.rounds,
        metavar="N",
        help="rounds of a complete run; each takes about seven minutes",
    )
    parser.add_argument(
        "--only", default="", metavar="NAME,…", help="only these contenders, for example sandlot,fastapi"
    )
    parser.add_argument(
        "--profile", action="store_true", help="only profile the CPU time of a Sandlot call (half a minute)"
    )
    parser.add_argument(
        "--durability",
        choices=("everysec", "always"),
        default="everysec",
        help="how the peers' Valkey syncs its append-only file",
    )
    return parser.parse_args()


def _profile(installed: Environment, console: Console) -> int:
    text = stages.markdown(stages.profile(installed))
    UNPUBLISHED.mkdir(parents=True, exist_ok=True)
    (UNPUBLISHED / "profile.md").write_text(text, encoding="utf-8")
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def _choose(only: str, durability: Sync) -> list[Contender]:
    everyone = contenders.everyone(durability)
    names = [name for name in only.split(",") if name]
    known = {contender.name for contender in everyone}
    if unknown := [name for name in names if name not in known]:
        raise UnknownContender(
            f"--only {','.join(unknown)}: not one of {', '.join(contender.name for contender in everyone)}"
        )
    return [contender for contender in everyone if not names or contender.name in names]


def _able(chosen: list[Contender], installed: Environment, console: Console) -> list[Contender]:
    """Return the contenders that this machine can run, and print those left out."""
    for contender in chosen:
        if contender.needs_node and installed.node is None:
            console.print(f"{contender.label} is left out: it needs node and npm on the PATH")
    return [contender for contender in chosen if not (contender.needs_node and installed.node is None)]


def _settings(schedule: Schedule, durability: str) -> dict[str, str]:
    return {
        "rounds": f"{schedule.rounds} interleaved round(s) of {schedule.cell_s:g} s per cell, medians",
        "load": "wrk with one thread and keep-alive connections, on the same cores as the server",
        "sandlot": "`sandlot up` with its defaults, SANDLOT_SANDBOX=strict, embedded Valkey; “AOF always” adds --durability always",
        "peers": f"the peers' Valkey runs with appendonly yes and appendfsync {durability}; uvicorn with one process; as many workers as cores",
    }


def _show(run: Run, written: list[Path], console: Console) -> None:
    rows = report.rows(run)
    console.print(_table("Synchronous calls of hello", report.COLUMNS[:7], [row[:7] for row in rows]))
    console.print(
        _table(
            "Other functions, cost, and guarantees",
            report.COLUMNS[:1] + report.COLUMNS[7:],
            [row[:1] + row[7:] for row in rows],
        )
    )
    console.print(_table("Queues, 5,000 no-ops", report.QUEUE_COLUMNS, report.queue_rows(run)))
    goals = [[v.goal, v.contender, v.target, v.measured, v.word] for v in run.verdicts]
    console.print(_table("Goals", ("goal", "", "target", "measured", ""), goals))
    for reason in report.failures(run):
        console.print(f"no figure: {reason}", style="red", highlight=False, markup=False)
    console.print("Written: " + ", ".join(str(path.relative_to(environment.ROOT)) for path in written), highlight=False)


def _table(title: str, head: tuple[str, ...], body: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in body:
        table.add_row(*(text.replace("**", "") for text in row))
    return table


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Make SIGTERM unwind like Ctrl+C, so that every `with` block ends its servers."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; every server has been ended", file=sys.stderr)
        sys.exit(130)
