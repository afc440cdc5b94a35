"""The command `sandlot up`: its options, and the summary it prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sandlot.cli.options import DataOption, Insecure, InsecureRedis
from sandlot.errors import InvalidSettings
from sandlot.models import Runtime

if TYPE_CHECKING:
    from sandlot.cli.up.platform import Platform
    from sandlot.cli.up.screen import Report, Summary


def up(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API (default 8000; 0 chooses a free one).")
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
        int | None, typer.Option(min=1, max=64, help="API processes that share the port (default 1).")
    ] = None,
    durability: Annotated[
        Literal["everysec", "always"] | None,
        typer.Option(help="When the embedded Valkey syncs its log to disk (default everysec)."),
    ] = None,
    insecure: Insecure = False,
    insecure_redis: InsecureRedis = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the logs of the API and the workers here.")
    ] = False,
) -> None:
    """Start a whole platform on this machine, and deploy functions/ on every save. Ctrl+C stops it.

    The queue is an embedded Valkey with its data in .sandlot/.
    Set SANDLOT_REDIS_URL to use your own Redis or Valkey instead.
    When a saved function does not parse, the error is shown and its last good version still serves.

    [bold]Two side by side:[/] sandlot up --port 8001 --data /tmp/other --functions other/
    """
    import asyncio

    from rich.console import Console

    from sandlot.cli.data_dir import DataDir
    from sandlot.cli.up.platform import PlatformConfig, free_port, run_until_stopped
    from sandlot.cli.up.screen import Screen
    from sandlot.settings import load_settings
    from sandlot.transport_security import require_safe_listener, require_safe_redis

    settings = load_settings(
        data=data,
        host=host,
        port=port,
        slots=slots,
        api_processes=api_processes,
        durability=durability,
        insecure=insecure or None,
        insecure_redis=insecure_redis or None,
    )
    if settings.tls_cert is not None or settings.tls_key is not None:
        raise InvalidSettings(
            "sandlot up does not support TLS, sandlot api does. Unset SANDLOT_TLS_CERT and SANDLOT_TLS_KEY"
        )
    require_safe_listener(settings)
    screen = Screen(Console())
    folder = _functions_folder(functions, screen.report)
    data_dir = DataDir(settings.data)
    data_dir.create()
    with data_dir.held():
        config = PlatformConfig(
            data=data_dir,
            functions=folder,
            host=settings.host,
            port=free_port(settings.host, settings.port),
            workers=workers,
            redis_url=require_safe_redis(settings),
            verbose=verbose,
            settings=settings,
        )
        asyncio.run(run_until_stopped(config, screen.report, lambda platform: screen.show(_summarize(platform))))


def _functions_folder(functions: Path | None, report: Report) -> Path:
    """Return the option's folder; by default `functions/`, created with a function if missing.

    Raises:
        InvalidSettings: the folder of the option does not exist, or `functions` is not a folder.
    """
    from sandlot.cli.scaffold import write_function

    folder = functions or Path("functions")
    if folder.is_dir():
        return folder
    if functions is not None or folder.exists():
        raise InvalidSettings(f"--functions {folder}: there is no such folder")
    path = write_function(folder, "hello", Runtime.PYTHON, public=True)
    report("note", f"there was no functions/ folder here: created {path} to start from")
    return folder


def _summarize(platform: Platform) -> Summary:
    from sandlot.cli.up.screen import Summary

    config, deployed = platform.config, platform.folder.deployed
    workers = f"{config.workers} worker" + ("s" if config.workers > 1 else "")
    sandbox = f", sandbox: {platform.sandbox}" if platform.sandbox else ""
    embedded = f"embedded Valkey, {_shorten(config.data.valkey)} (AOF, fsync {config.settings.durability})"
    names = ", ".join(deployed[:8]) + (", …" if len(deployed) > 8 else "")
    facts = [
        ("API", f"{config.url}   docs: {config.url}/docs"),
        ("Queue", "Redis at SANDLOT_REDIS_URL" if config.redis_url else embedded),
        ("Workers", f"{workers} for {' and '.join(sorted(platform.workers))}{sandbox}"),
        ("Functions", f"{len(deployed)} from {_shorten(config.functions)}/: {names}"),
        ("Key", f"{_shorten(config.data.key_file)} (found automatically by the sandlot command)"),
        ("Logs", "this terminal" if config.verbose else f"{_shorten(config.data.logs)}/"),
    ]
    warnings = []
    if Runtime.NODE not in platform.workers:
        warnings.append(
            "Node was not found: Python functions run, Node functions do not. Install Node, or: "
            "pip install 'sandlot[node]'"
        )
    return Summary(config.url, facts, warnings, _suggested_commands(platform))


def _suggested_commands(platform: Platform) -> list[tuple[str, str]]:
    from sandlot.cli.installation import own_command

    deployed = platform.folder.deployed
    name = "hello" if "hello" in deployed or not deployed else deployed[0]
    invoke = f"{platform.config.url}/v1/functions/{name}/invoke"
    return [
        (f"curl -X POST {invoke}", "call a function and wait for its result"),
        (f"curl -X POST '{invoke}?async=true'", "queue the same call; the reply is a job"),
        (f"{own_command()} new greet", "write your own function; it is deployed on every save"),
    ]


def _shorten(path: Path) -> str:
    """Return the path relative to the current folder if it is below it, otherwise absolute."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)
