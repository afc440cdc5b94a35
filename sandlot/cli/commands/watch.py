"""Two commands of the help's panel "Operate": status, top.

Knows: their options and their help. Does not know: what they do; it is in a file of its own, imported when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sandlot.cli.options import AsJson, Url

commands = typer.Typer(rich_markup_mode="rich")


@commands.command(rich_help_panel="Operate")
def status(url: Url = None, as_json: AsJson = False) -> None:
    """Show the queue and its workers: what waits and for how long, slots and how many are busy.

    [bold]Example:[/] sandlot status --json | jq '.placements[] | select(.placement == "python").queued'
    """
    from sandlot.cli.status import print_status

    print_status(url, as_json)


@commands.command(rich_help_panel="Operate")
def top(
    url: Url = None,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Watch functions, rates, p50 and p99, queues, workers and slots, live. Ctrl+C ends it."""
    from sandlot.cli.status import watch

    watch(url, interval)
