"""The command `sandlot up`: from options to a running platform and back to the shell.

Knows: options, what is worth telling, exit. Does not know: how each part is started.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from rich.console import Console

from sandlot.cli.data_dir import DataDir
from sandlot.cli.installation import own_command
from sandlot.cli.scaffold import write_function
from sandlot.cli.up.platform import Plan, Platform, everything, free_port, look_after, stop_signals
from sandlot.cli.up.screen import Screen, Summary
from sandlot.errors import InvalidSettings
from sandlot.models import Runtime
from sandlot.settings import load_settings
from sandlot.transport_security import require_safe_listener, require_safe_redis


def up(
    *,
    data: Path | None,
    functions: Path | None,
    host: str | None,
    port: int | None,
    workers: int,
    slots: str | None,
    api_processes: int | None,
    durability: str | None,
    insecure: bool,
    insecure_redis: bool,
    verbose: bool,
) -> None:
    """Run until told to stop.

    Raises:
        SandlotError: it cannot be started; nothing is left running.
    """
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
        raise InvalidSettings("sandlot up speaks no TLS; sandlot api does. Unset SANDLOT_TLS_CERT and SANDLOT_TLS_KEY")
    require_safe_listener(settings)
    screen = Screen(Console())
    folder = _functions_folder(functions, screen)
    home = DataDir(settings.data)
    home.create()
    with home.held():
        plan = Plan(
            data=home,
            functions=folder,
            host=settings.host,
            port=free_port(settings.host, settings.port),
            workers=workers,
            redis_url=require_safe_redis(settings),
            verbose=verbose,
            settings=settings,
        )
        asyncio.run(_run(plan, screen))


async def _run(plan: Plan, screen: Screen) -> None:
    stopping, hurry = asyncio.Event(), asyncio.Event()
    stop_signals(stopping, hurry)
    work = asyncio.create_task(_work(plan, screen, hurry))
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not work.done():
        screen.say("note", "stopping (once more to stop at once)")
        work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    screen.say("ok", "stopped; jobs and functions are kept")


async def _work(plan: Plan, screen: Screen, hurry: asyncio.Event) -> None:
    async with everything(plan, screen.say, hurry) as running:
        screen.summary(_summary(running))
        await look_after(running, screen.say)


def _functions_folder(functions: Path | None, screen: Screen) -> Path:
    """The folder that was asked for; without one, `functions/` here, made with a first function in it if it is not there.

    Raises:
        InvalidSettings: the one that was asked for is not a folder.
    """
    folder = functions or Path("functions")
    if folder.is_dir():
        return folder
    if functions is not None or folder.exists():
        raise InvalidSettings(f"--functions {folder}: there is no such folder")
    path = write_function(folder, "hello", Runtime.PYTHON, public=True)
    screen.say("note", f"there was no functions/ here: made {path} to start from")
    return folder


def _summary(running: Platform) -> Summary:
    plan = running.plan
    count = len(running.folder.deployed)
    processes = f"{plan.workers} worker" + ("s" if plan.workers > 1 else "")
    walls = f", sandbox: {running.sandbox}" if running.sandbox else ""
    embedded = f"embedded Valkey, {_short(plan.data.valkey)} (AOF, fsync {plan.settings.durability})"
    facts = [
        ("API", f"{plan.url}   docs: {plan.url}/docs"),
        ("Queue", "Redis at SANDLOT_REDIS_URL" if plan.redis_url else embedded),
        ("Workers", f"{processes} for {' and '.join(sorted(running.workers))}{walls}"),
        (
            "Functions",
            f"{count} from {_short(plan.functions)}/: {', '.join(running.folder.deployed[:8])}{', …' if count > 8 else ''}",
        ),
        ("Key", f"{_short(plan.data.key_file)} (the sandlot command finds it by itself)"),
        ("Logs", "this terminal" if plan.verbose else f"{_short(plan.data.logs)}/"),
    ]
    warnings = []
    if Runtime.NODE not in running.workers:
        warnings.append(
            "Node was not found: Python functions run, Node functions do not. Install it, or: pip install 'sandlot[node]'"
        )
    return Summary(plan.url, facts, warnings, _commands(running))


def _commands(running: Platform) -> list[tuple[str, str]]:
    deployed = running.folder.deployed
    name = "hello" if "hello" in deployed or not deployed else deployed[0]
    url = running.plan.url
    invoke = f"{url}/v1/functions/{name}/invoke"
    return [
        (f"curl -X POST {invoke}", "call a function and wait for its result"),
        (f"curl -X POST '{invoke}?async=true'", "the same, queued: the answer is a job"),
        (f"{own_command()} new greet", "write one of your own; it is deployed when it is saved"),
    ]


def _short(path: Path) -> str:
    """As seen from here, if it is below here."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)
