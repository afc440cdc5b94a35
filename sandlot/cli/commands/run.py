"""The commands of the help's panel "Run": up, api, worker.

Knows: their options and their help. Does not know: what they do; each is in a file of its own, imported when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sandlot.cli.options import DataOption

commands = typer.Typer(rich_markup_mode="rich")


@commands.command(rich_help_panel="Run")
def up(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API (default 8000; 0: a free one).")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on (default 127.0.0.1).")] = None,
    data: DataOption = None,
    functions: Annotated[
        Path | None, typer.Option("--functions", metavar="DIR", help="Folder of functions (default: functions).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    slots: Annotated[
        str | None,
        typer.Option(metavar="N|MIN..MAX", help="Invocations at once, per worker (default: from the CPUs)."),
    ] = None,
    api_processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the API's port (default 1).")
    ] = None,
    durability: Annotated[
        Literal["everysec", "always"] | None,
        typer.Option(help="When the embedded Valkey's log is synced to disk (default everysec)."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen to a network without TLS or a declared proxy.")
    ] = False,
    insecure_redis: Annotated[
        bool, typer.Option("--insecure-redis", help="Reach Redis over a network without TLS.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of API and workers here.")] = False,
) -> None:
    """Start everything on this machine, deploy functions/ and watch it. Ctrl+C stops it all.

    A Valkey comes with Sandlot and keeps its data in .sandlot/; set SANDLOT_REDIS_URL to use a Redis or Valkey of your own instead.
    A function that is saved is deployed at once; one that does not parse is told, and its last good version goes on serving.

    [bold]Two side by side:[/] sandlot up --port 8001 --data /tmp/other --functions other/
    """
    from sandlot.cli.up.command import up as run

    run(
        data=data,
        functions=functions,
        host=host,
        port=port,
        workers=workers,
        slots=slots,
        api_processes=api_processes,
        durability=durability,
        insecure=insecure,
        insecure_redis=insecure_redis,
        verbose=verbose,
    )


@commands.command(rich_help_panel="Run")
def api(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port (default 8000).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the port (default 1).")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="Redis or Valkey (default: SANDLOT_REDIS_URL).")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate in PEM: speak HTTPS; SIGHUP reads it again.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key in PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen to a network without TLS or a declared proxy.")
    ] = False,
    insecure_redis: Annotated[
        bool, typer.Option("--insecure-redis", help="Reach Redis over a network without TLS.")
    ] = False,
    data: DataOption = None,
    words: Annotated[list[str] | None, typer.Argument(hidden=True, help="For a process that a renewal starts.")] = None,
) -> None:
    """Run an API process, on any machine that reaches your Redis.

    It needs SANDLOT_REDIS_URL and the signing key that your workers have (SANDLOT_SIGNING_KEY or SANDLOT_SIGNING_KEY_FILE);
    where `sandlot up` runs, it joins that without either.
    """
    from sandlot.cli.installation import installed_script
    from sandlot.cli.servers import replace_with

    settings = {"SANDLOT_PORT": port, "SANDLOT_HOST": host, "SANDLOT_API_PROCESSES": workers}
    tls = {"SANDLOT_TLS_CERT": tls_cert, "SANDLOT_TLS_KEY": tls_key, "SANDLOT_INSECURE": insecure or None}
    queue = {"SANDLOT_REDIS_URL": redis_url, "SANDLOT_INSECURE_REDIS": insecure_redis or None}
    script = installed_script()
    itself = ["--installed", str(script)] if script is not None else []
    replace_with("api", {**settings, **tls, **queue, "SANDLOT_DATA": data}, [*itself, *(words or ())])


@commands.command(rich_help_panel="Run")
def worker(
    slots: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN..MAX", help="Invocations at once (default: from the CPUs); a range grows with the queue."
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", help="It has this (gpu, …) for functions that need it; may be repeated."),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="Redis or Valkey (default: SANDLOT_REDIS_URL).")
    ] = None,
    insecure_redis: Annotated[
        bool, typer.Option("--insecure-redis", help="Reach Redis over a network without TLS.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Run a worker, on any machine that reaches your Redis. It fetches the functions by itself.

    It needs SANDLOT_REDIS_URL and the signing key that your API has (SANDLOT_SIGNING_KEY or SANDLOT_SIGNING_KEY_FILE);
    where `sandlot up` runs, it joins that without either.
    Ctrl+C lets it finish what it runs.
    """
    from sandlot.cli.servers import replace_with

    chosen = ",".join(tags) if tags else None
    replace_with(
        "worker",
        {
            "SANDLOT_SLOTS": slots,
            "SANDLOT_TAGS": chosen,
            "SANDLOT_INSECURE_REDIS": insecure_redis or None,
            "SANDLOT_REDIS_URL": redis_url,
            "SANDLOT_DATA": data,
        },
    )
