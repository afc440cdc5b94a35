"""`sandlot dev`: deploy a folder to a platform that runs, again whenever something in it is saved, and tell of every call.

Knows: what runs together, when it stops. Does not know: how a save is noticed, how a call is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from sandlot.cli.access import open_client
from sandlot.cli.following import Calls
from sandlot.cli.up.platform import stop_signals
from sandlot.cli.up.screen import Screen
from sandlot.cli.up.watcher import FunctionsFolder
from sandlot.client import Client
from sandlot.errors import InvalidSettings


def dev(functions: Path, url: str | None) -> None:
    """Until Ctrl+C.

    Raises:
        InvalidSettings: there is no such folder.
        SandlotError: the API cannot be reached, or the key may not do this.
    """
    if not functions.is_dir():
        raise InvalidSettings(f"--functions {functions}: there is no such folder; sandlot new NAME makes one")
    with open_client(url) as client:
        client.functions()  # says at once what is wrong with the API or the key
        asyncio.run(_run(functions, client, Screen(Console())))


async def _run(functions: Path, client: Client, screen: Screen) -> None:
    stopping = asyncio.Event()
    stop_signals(stopping, asyncio.Event())
    folder = FunctionsFolder(functions, client, None, screen.say)
    work = [
        asyncio.create_task(folder.watch(), name="watch functions"),
        asyncio.create_task(Calls(client, lambda: folder.deployed, screen.say).follow(), name="follow calls"),
        asyncio.create_task(_welcome(folder, functions, client, screen), name="welcome"),
    ]
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({told, *work[:2]}, return_when=asyncio.FIRST_COMPLETED)
        for part in work[:2]:
            if part.done():
                part.result()
    finally:
        told.cancel()
        for part in work:
            part.cancel()
        await asyncio.gather(told, *work, return_exceptions=True)
    screen.say("ok", "stopped watching; what is deployed goes on")


async def _welcome(folder: FunctionsFolder, functions: Path, client: Client, screen: Screen) -> None:
    await folder.deployed_once.wait()
    screen.say("ok", f"{functions}/ is deployed to {client.url}: {', '.join(folder.deployed) or 'nothing yet'}")
    screen.say(
        "note", "what is saved is deployed at once, what is called is shown here; Ctrl+C stops this, not the functions"
    )
