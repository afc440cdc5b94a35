"""The commands of the help's panel "Jobs": jobs, job, logs, batch, dead-letters.

Knows: their options and their help. Does not know: what they do; each is in a file of its own, imported when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sandlot.cli.options import AsJson, Url
from sandlot.models import JobStatus

commands = typer.Typer(rich_markup_mode="rich")


@commands.command(rich_help_panel="Jobs")
def jobs(
    function: Annotated[str | None, typer.Option(metavar="NAME", help="Of this function only.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="That stand so only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List your jobs that are kept, newest first.

    [bold]Example:[/] sandlot jobs --function hello --status failed
    """
    from sandlot.cli.jobs import list_all

    list_all(function, status, limit, url, as_json)


@commands.command(rich_help_panel="Jobs")
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    result: Annotated[bool, typer.Option("--result", help="Print what it returned, nothing else.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run it again, as a new job with the same event.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show how a job stands; wait for it, cancel it, run it again, fetch its result.

    [bold]Example:[/] sandlot job $(sandlot invoke hello --async) --wait
    """
    from sandlot.cli.jobs import show

    show(job_id, wait=wait, result=result, cancel=cancel, retry=retry, url=url, as_json=as_json)


@commands.command(rich_help_panel="Jobs")
def logs(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    url: Url = None,
) -> None:
    """Print what a job's function wrote to stdout and stderr.

    [bold]Example:[/] sandlot logs $(sandlot invoke slow --async) --follow
    """
    from sandlot.cli.jobs import follow_logs, print_logs

    if follow:
        follow_logs(job_id, url)
    else:
        print_logs(job_id, url)


@commands.command(rich_help_panel="Jobs")
def batch(
    name: Annotated[str, typer.Argument(help="The function.")],
    events: Annotated[
        str, typer.Argument(help="An array of 1 to 1,000 events: JSON, @FILE to read it from a file, - from stdin.")
    ],
    version: Annotated[str | None, typer.Option(help="A version other than the latest, or an alias.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Queue a call for each event of an array, all of them or none, and print the ids of the jobs.

    [bold]Example:[/] sandlot batch resize @pictures.json
    """
    from sandlot.cli.events import read_event
    from sandlot.cli.jobs import queue_batch

    queue_batch(name, read_event(events, None), version, url, as_json)


@commands.command("dead-letters", rich_help_panel="Jobs")
def dead_letters(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One of them, with its event.")] = None,
    function: Annotated[str, typer.Option("--function", "-f", metavar="NAME", help="Only this function's.")] = "",
    redrive: Annotated[bool, typer.Option("--redrive", help="Run it again, as a new job in its place.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Let it go.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Redrive or purge all of them.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs that were tried in vain; look at one, run it again, let it go.

    [bold]Example:[/] sandlot dead-letters --function hello --redrive
    """
    from sandlot.cli.dead_letters import letters

    letters(job_id, function=function, redrive=redrive, purge=purge, every=every, url=url, as_json=as_json)
