"""`sandlot dev`: deploy a folder to a running platform on every save, and show its calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandlot.cli.options import Url, open_client
from sandlot.errors import InvalidSettings

if TYPE_CHECKING:
    from sandlot.cli.up.screen import Screen
    from sandlot.cli.up.watcher import FunctionsFolder
    from sandlot.client import Client


def dev(
    functions: Annotated[Path, typer.Option("--functions", metavar="DIR", help="Folder of functions.")] = Path(
        "functions"
    ),
    url: Url = None,
) -> None:
    """Deploy a folder on every save, and show the calls of its functions with their logs.

    It needs a running platform, here or elsewhere: `sandlot up` already watches its own folder.
    Ctrl+C ends the command; the functions stay deployed.

    [bold]Example:[/] sandlot dev --url https://functions.example.com
    """
    import asyncio

    from rich.console import Console

    from sandlot.cli.up.screen import Screen

    if not functions.is_dir():
        raise InvalidSettings(f"--functions {functions}: there is no such folder; create one with: sandlot new NAME")
    with open_client(url) as client:
        client.functions()  # reports at once an API that does not answer or a key without the right
        asyncio.run(_watch_and_tail(functions, client, Screen(Console())))


async def _watch_and_tail(functions: Path, client: Client, screen: Screen) -> None:
    """Deploy saves and show calls until the first signal to stop, or until one of the two fails."""
    import asyncio

    from sandlot.cli.call_tail import CallTail
    from sandlot.cli.up.platform import on_stop_signals
    from sandlot.cli.up.watcher import FunctionsFolder

    stopping = asyncio.Event()
    on_stop_signals(stopping, asyncio.Event())
    folder = FunctionsFolder(functions, client, None, screen.report)
    services = [
        asyncio.create_task(folder.watch(), name="watch functions"),
        asyncio.create_task(CallTail(client, lambda: folder.deployed, screen.report).follow(), name="follow calls"),
    ]
    welcome = asyncio.create_task(_welcome(folder, functions, client, screen), name="welcome")
    stop_requested = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({stop_requested, *services}, return_when=asyncio.FIRST_COMPLETED)
        for service in services:
            if service.done():
                service.result()
    finally:
        tasks = [stop_requested, *services, welcome]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    screen.report("ok", "stopped watching; the functions stay deployed")


async def _welcome(folder: FunctionsFolder, functions: Path, client: Client, screen: Screen) -> None:
    await folder.first_deploy_done.wait()
    screen.report("ok", f"{functions}/ is deployed to {client.url}: {', '.join(folder.deployed) or 'no functions yet'}")
    screen.report(
        "note", "every save is deployed and every call is shown here; Ctrl+C ends this, the functions stay deployed"
    )
