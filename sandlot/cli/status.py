"""`sandlot status` and `sandlot top`: the queue, its workers and its functions, once or live.

Knows: tables, a terminal. Does not know: what the numbers are made of.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sandlot.cli.access import open_client
from sandlot.cli.output import print_json
from sandlot.cli.rates import Rate, Status, rates
from sandlot.client import Client
from sandlot.errors import ApiUnreachable, TryAgain

WINDOW_S: Final = 10.0
"""What rates and quantiles of `top` are taken over: short enough to see a change, long enough for more than a few calls."""
_NOTHING: Final = "[dim]-[/]"


def print_status(url: str | None, as_json: bool) -> None:
    with open_client(url) as client:
        status = client.status()
    if as_json:
        print_json(status)
        return
    console = Console()
    console.print(_heading(status))
    console.print(_placements(status))
    console.print(_workers(status))
    if any(function["queued"] or function["running"] for function in status["functions"]):
        console.print(_queues(status))


def watch(url: str | None, interval_s: float) -> None:
    """Until Ctrl+C. An API that does not answer is said so, and asked again."""
    looks: deque[tuple[float, Status]] = deque()
    with open_client(url) as client, Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(_look(client, looks), refresh=True)
            time.sleep(interval_s)


def _look(client: Client, looks: deque[tuple[float, Status]]) -> RenderableType:
    try:
        status = client.status()
    except (ApiUnreachable, TryAgain) as error:
        looks.clear()
        return Text.from_markup(f"[bold red]error[/] {escape(error.message)}")
    now_s = time.monotonic()
    looks.append((now_s, status))
    while len(looks) > 2 and looks[0][0] < now_s - WINDOW_S:
        looks.popleft()
    began_s, before = looks[0]
    seen = rates(before, status, now_s - began_s) if len(looks) > 1 else {}
    return _screen(client.url, status, seen, now_s - began_s)


def _screen(url: str, status: Status, seen: Mapping[str, Rate], window_s: float) -> RenderableType:
    calls_per_s = sum(rate.calls_per_s for rate in seen.values())
    title = f"[bold]sandlot top[/]  [dim]{escape(url)}[/]  {calls_per_s:,.1f} calls/s [dim]over {window_s:.0f} s[/]"
    return Group(
        Text.from_markup(title),
        _heading(status),
        "",
        _placements(status),
        "",
        _workers(status),
        "",
        _functions(status, seen),
        Text.from_markup("\n[dim]Ctrl+C ends this; the numbers come from the workers' last beats[/]"),
    )


def _heading(status: Status) -> Text:
    words = (f"{status[name]:,} {name}" for name in ("queued", "running", "scheduled", "ended"))
    return Text("   ".join(words))


def _placements(status: Status) -> Table:
    table = _table("PLACEMENT", "QUEUED", "OLDEST", "WORKERS", "BUSY", "SLOTS")
    for placement in status["placements"]:
        style = "" if placement["workers"] else "red" if placement["queued"] else "dim"
        table.add_row(
            escape(placement["placement"]),
            _count(placement["queued"]),
            _seconds(placement["oldest_wait_s"] or None),
            str(placement["workers"]),
            str(placement["busy"]),
            str(placement["slots"]),
            style=style,
        )
    return table


def _workers(status: Status) -> Table:
    table = _table("WORKER", "BUSY", "SLOTS", "SERVES")
    table.columns[-1].justify = "left"
    for worker in status["workers"]:
        serves = " ".join(worker["placements"])
        table.add_row(escape(worker["name"]), str(worker["busy"]), str(worker["slots"]), escape(serves))
    if not status["workers"]:
        table.add_row("[red]none: start one with sandlot worker[/]", "", "", "")
    return table


def _queues(status: Status) -> Table:
    table = _table("FUNCTION", "QUEUED", "RUNNING", "OLDEST")
    for function in status["functions"]:
        if function["queued"] or function["running"]:
            table.add_row(
                escape(function["function"]),
                _count(function["queued"]),
                _count(function["running"]),
                _seconds(function["oldest_wait_s"] or None),
            )
    return table


def _functions(status: Status, seen: Mapping[str, Rate]) -> Table:
    """The busiest first."""
    table = _table("FUNCTION", "CALLS/S", "P50", "P99", "FAILED", "QUEUED", "RUNNING", "OLDEST", "CALLS")
    idle = Rate(0.0, 0, None, None)

    def rank(function: Mapping[str, Any]) -> tuple[float, int, str]:
        return -seen.get(function["function"], idle).calls_per_s, -function["queued"], function["function"]

    for function in sorted(status["functions"], key=rank):
        rate = seen.get(function["function"], idle)
        table.add_row(
            escape(function["function"]),
            f"{rate.calls_per_s:,.1f}" if rate.calls_per_s else _NOTHING,
            _seconds(rate.p50_s),
            _seconds(rate.p99_s),
            f"[red]{rate.failed:,}[/]" if rate.failed else _NOTHING,
            _count(function["queued"]),
            _count(function["running"]),
            _seconds(function["oldest_wait_s"] or None),
            f"{function['ok'] + function['failed']:,}",
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else _NOTHING


def _seconds(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"
