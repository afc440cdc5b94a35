"""`sandlot status` and `sandlot top`: the queue, its workers and its functions, once or live."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from sandlot.cli.options import AsJson, Url, open_client
from sandlot.cli.output import print_json
from sandlot.errors import ApiUnreachable, TryAgain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from sandlot.client import Client

Status = Mapping[str, Any]
"""The document of `GET /v1/status`."""

WINDOW_S: Final = 10.0
"""Period of the rates and quantiles of `top`.
Short enough to show a change, long enough for more than a few calls."""
_EMPTY_CELL: Final = "[dim]-[/]"


def status(url: Url = None, as_json: AsJson = False) -> None:
    """Show queues and workers: jobs waiting and for how long, slots and how many are busy.

    [bold]Example:[/] sandlot status --json | jq '.placements[] | {placement, queued}'
    """
    with open_client(url) as client:
        document = client.status()
    if as_json:
        print_json(document)
        return
    from rich.console import Console

    console = Console()
    console.print(_totals_line(document))
    console.print(_placement_table(document))
    console.print(_worker_table(document))
    if any(function["queued"] or function["running"] for function in document["functions"]):
        console.print(_queue_table(document))


def top(
    url: Url = None,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two updates.")] = 1.0,
) -> None:
    """Watch functions, rates, p50 and p99, queues, workers and slots live. Ctrl+C ends it."""
    from rich.live import Live

    samples: deque[tuple[float, Status]] = deque()
    with open_client(url) as client, Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(_sample_and_draw(client, samples), refresh=True)
            time.sleep(interval)


class Rate(msgspec.Struct, frozen=True):
    """Calls of one function within a period.

    `p50_s` and `p99_s` are None if there were no calls.
    """

    calls_per_s: float
    failed: int
    p50_s: float | None
    p99_s: float | None


def rates(before: Status, after: Status, seconds: float) -> dict[str, Rate]:
    """Return the rate of each function in `after` since `before`.

    The counts of a worker vanish when it leaves or restarts, so a difference below zero counts as
    zero.
    """
    known = {function["function"]: function for function in before["functions"]}
    return {
        function["function"]: _rate_of(known.get(function["function"], {}), function, seconds, after["bounds_s"])
        for function in after["functions"]
    }


def quantile(share: float, buckets: Sequence[int], bounds_s: Sequence[float]) -> float | None:
    """Estimate a quantile from a histogram, as Prometheus's `histogram_quantile` does.

    The estimate is interpolated between the bounds of the bucket that the quantile falls into. In
    the last bucket, which has no upper bound, it is the highest bound. None without observations.
    """
    total = sum(buckets)
    if not total:
        return None
    rank = share * total
    for index, cumulative in enumerate(accumulate(buckets)):
        if cumulative >= rank and buckets[index]:
            if index >= len(bounds_s):
                return bounds_s[-1]
            lower_s = bounds_s[index - 1] if index else 0.0
            fraction = (rank - (cumulative - buckets[index])) / buckets[index]
            return lower_s + (bounds_s[index] - lower_s) * fraction
    return bounds_s[-1]


def _rate_of(before: Status, after: Status, seconds: float, bounds_s: Sequence[float]) -> Rate:
    old = before.get("buckets") or [0] * len(after["buckets"])
    buckets = [max(0, new - past) for new, past in zip(after["buckets"], old, strict=False)]
    failed = max(0, after["failed"] - before.get("failed", 0))
    ok = max(0, after["ok"] - before.get("ok", 0))
    return Rate((ok + failed) / seconds, failed, quantile(0.5, buckets, bounds_s), quantile(0.99, buckets, bounds_s))


def _sample_and_draw(client: Client, samples: deque[tuple[float, Status]]) -> RenderableType:
    """Fetch the status and draw the screen; if the API does not answer, draw its error instead."""
    from rich.markup import escape
    from rich.text import Text

    try:
        document = client.status()
    except (ApiUnreachable, TryAgain) as error:
        samples.clear()
        return Text.from_markup(f"[bold red]error[/] {escape(error.message)}")
    now_s = time.monotonic()
    samples.append((now_s, document))
    while len(samples) > 2 and samples[0][0] < now_s - WINDOW_S:
        samples.popleft()
    began_s, before = samples[0]
    found = rates(before, document, now_s - began_s) if len(samples) > 1 else {}
    return _draw_screen(client.url, document, found, now_s - began_s)


def _draw_screen(url: str, document: Status, found: Mapping[str, Rate], window_s: float) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    calls_per_s = sum(rate.calls_per_s for rate in found.values())
    title = f"[bold]sandlot top[/]  [dim]{escape(url)}[/]  {calls_per_s:,.1f} calls/s [dim]over {window_s:.0f} s[/]"
    return Group(
        Text.from_markup(title),
        _totals_line(document),
        "",
        _placement_table(document),
        "",
        _worker_table(document),
        "",
        _function_table(document, found),
        Text.from_markup("\n[dim]Ctrl+C ends this; the numbers are from the workers' last heartbeats[/]"),
    )


def _totals_line(document: Status) -> Text:
    from rich.text import Text

    totals = (f"{document[name]:,} {name}" for name in ("queued", "running", "scheduled", "ended"))
    return Text("   ".join(totals))


def _placement_table(document: Status) -> Table:
    from rich.markup import escape

    table = _number_table("PLACEMENT", "QUEUED", "OLDEST", "WORKERS", "BUSY", "SLOTS")
    for placement in document["placements"]:
        style = "" if placement["workers"] else "red" if placement["queued"] else "dim"
        table.add_row(
            escape(placement["placement"]),
            _format_count(placement["queued"]),
            _format_seconds(placement["oldest_wait_s"] or None),
            str(placement["workers"]),
            str(placement["busy"]),
            str(placement["slots"]),
            style=style,
        )
    return table


def _worker_table(document: Status) -> Table:
    from rich.markup import escape

    table = _number_table("WORKER", "BUSY", "SLOTS", "SERVES")
    table.columns[-1].justify = "left"
    for worker in document["workers"]:
        serves = " ".join(worker["placements"])
        table.add_row(escape(worker["name"]), str(worker["busy"]), str(worker["slots"]), escape(serves))
    if not document["workers"]:
        table.add_row("[red]none: start one with sandlot worker[/]", "", "", "")
    return table


def _queue_table(document: Status) -> Table:
    from rich.markup import escape

    table = _number_table("FUNCTION", "QUEUED", "RUNNING", "OLDEST")
    for function in document["functions"]:
        if function["queued"] or function["running"]:
            table.add_row(
                escape(function["function"]),
                _format_count(function["queued"]),
                _format_count(function["running"]),
                _format_seconds(function["oldest_wait_s"] or None),
            )
    return table


def _function_table(document: Status, found: Mapping[str, Rate]) -> Table:
    """Return one row per function, the busiest first."""
    from rich.markup import escape

    table = _number_table("FUNCTION", "CALLS/S", "P50", "P99", "FAILED", "QUEUED", "RUNNING", "OLDEST", "CALLS")
    idle = Rate(0.0, 0, None, None)

    def rank(function: Mapping[str, Any]) -> tuple[float, int, str]:
        return -found.get(function["function"], idle).calls_per_s, -function["queued"], function["function"]

    for function in sorted(document["functions"], key=rank):
        rate = found.get(function["function"], idle)
        table.add_row(
            escape(function["function"]),
            f"{rate.calls_per_s:,.1f}" if rate.calls_per_s else _EMPTY_CELL,
            _format_seconds(rate.p50_s),
            _format_seconds(rate.p99_s),
            f"[red]{rate.failed:,}[/]" if rate.failed else _EMPTY_CELL,
            _format_count(function["queued"]),
            _format_count(function["running"]),
            _format_seconds(function["oldest_wait_s"] or None),
            f"{function['ok'] + function['failed']:,}",
        )
    return table


def _number_table(*headings: str) -> Table:
    """Return a table whose columns after the first hold numbers."""
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _format_count(number: int) -> str:
    return f"{number:,}" if number else _EMPTY_CELL


def _format_seconds(value: float | None) -> str:
    if value is None:
        return _EMPTY_CELL
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"
