"""Deploy the functions of a folder, once and whenever one of them is saved.

Knows: which path belongs to which function, and what to tell the person who saved it. Does not know: how a deploy is stored.
A version that does not parse is refused before anything changes, so the last good one goes on serving; so does the last version of a
file that was deleted, because editors and git delete files only to write them again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from watchfiles import DefaultFilter, awatch

from sandlot.cli.deploy import deploy_path
from sandlot.cli.progress import LOOK_S, look
from sandlot.client import Client
from sandlot.errors import ApiUnreachable, InvalidManifest, SandlotError, TryAgain
from sandlot.functions.source import MANIFEST_FILE, function_name, function_paths

Say = Callable[[str, str], None]
"""Tell the person: a mark (`ok`, `same`, `bad`, `note`, `log`) and a line."""

RETRY_S: Final = 1.0
"""Between two tries to deploy what was saved while the API did not answer."""


class FunctionsFolder:
    def __init__(self, folder: Path, client: Client, node: Path | None, say: Say) -> None:
        self._folder = folder.resolve()
        self._client = client
        self._node = node
        self._say = say
        self._deployed: dict[str, dict[str, Any]] = {}
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._owed: set[Path] = set()
        """Saved while the API did not answer."""
        self.deployed_once = asyncio.Event()

    @property
    def deployed(self) -> list[str]:
        return sorted(self._deployed)

    async def deploy_all(self) -> None:
        """Deploy whatever is there; what cannot be deployed is told and left out."""
        for path in self._paths():
            await self._deploy(path, quiet=True)

    async def watch(self) -> None:
        """Deploy whatever is there, set `deployed_once`, then deploy what is saved, for ever."""
        try:
            await self._follow(polling=False)
        except OSError as error:
            # No inotify watches left (fs.inotify.max_user_watches), or a file system without it.
            self._say("note", f"cannot be told of saves ({error.strerror or error}); looking for them instead")
            await self._follow(polling=True)

    async def _follow(self, *, polling: bool) -> None:
        changes = awatch(self._folder, watch_filter=DefaultFilter(), step=40, force_polling=polling)
        coming = asyncio.ensure_future(anext(changes))
        try:
            # It sets its watches before it first waits; whatever is saved from here on is told, so the first deploy misses nothing.
            await asyncio.sleep(0)
            await self.deploy_all()
            self.deployed_once.set()
            while True:
                told, _ = await asyncio.wait({coming}, timeout=RETRY_S if self._owed else None)
                if not told:
                    await self._pay()
                    continue
                changed = {Path(path) for _, path in await coming}
                coming = asyncio.ensure_future(anext(changes))
                inside = {path.relative_to(self._folder).parts for path in changed}
                await self._changed({self._folder / parts[0] for parts in inside if parts})
        finally:
            following = [coming, *self._builds.values()]
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            await changes.aclose()

    async def _changed(self, paths: set[Path]) -> None:
        known = set(self._paths())
        for path in sorted(paths):
            if path in known:
                await self._deploy(path)
            elif not path.exists():
                self._gone(path)
            elif path.is_dir() and not (path / MANIFEST_FILE).is_file():
                self._say("note", f"{path.name}/ is no function without a {MANIFEST_FILE}")

    async def _pay(self) -> None:
        for path in sorted(self._owed):
            if path.exists():
                await self._deploy(path)
            else:
                self._owed.discard(path)

    def _paths(self) -> list[Path]:
        """What is a function there, one path for each name; the others are told."""
        chosen: dict[str, Path] = {}
        for path in function_paths(self._folder):
            try:
                first = chosen.setdefault(function_name(path), path)
            except InvalidManifest as error:
                self._say("bad", str(error))
                continue
            if first is not path:
                self._say(
                    "bad",
                    f"{path.name} and {first.name} would both be {function_name(path)!r}; {path.name} is left out",
                )
        return list(chosen.values())

    async def _deploy(self, path: Path, *, quiet: bool = False) -> None:
        started_s = time.monotonic()
        try:
            deployed = await asyncio.to_thread(deploy_path, self._client, path, node=self._node)
        except (ApiUnreachable, TryAgain) as error:
            if path not in self._owed:
                self._owed.add(path)
                self._say("bad", f"{error}{self._still(path)}; {path.name} is deployed when it answers")
            return
        except SandlotError as error:
            self._owed.discard(path)
            self._say("bad", f"{error}{self._still(path)}")
            return
        self._owed.discard(path)
        name = deployed["name"]
        if name in self._builds:
            self._builds.pop(name).cancel()  # what was saved last is what counts
        if deployed["state"] == "pending":
            self._follow_build(name, deployed, started_s)
            return
        self._note_active(name, deployed, started_s, quiet=quiet)

    def _follow_build(self, name: str, deployed: dict[str, Any], started_s: float) -> None:
        """In the background: others can be saved meanwhile."""
        self._say("note", f"{name} version {deployed['version']} waits for its dependencies")
        self._builds[name] = asyncio.create_task(self._build(name, deployed, started_s), name=f"follow {name}")

    async def _build(self, name: str, deployed: dict[str, Any], started_s: float) -> None:
        try:
            while deployed["state"] == "pending":
                await asyncio.sleep(LOOK_S)
                deployed = await asyncio.to_thread(look, self._client, deployed)
        except SandlotError as error:
            self._say("bad", str(error))
            return
        self._note_active(name, deployed, started_s)

    def _note_active(self, name: str, deployed: dict[str, Any], started_s: float, *, quiet: bool = False) -> None:
        before = self._deployed.get(name, {}).get("version")
        self._deployed[name] = deployed
        if quiet:
            return
        if before == deployed["version"]:
            self._say("same", f"{name} is unchanged, version {before}")
        else:
            self._say(
                "ok", f"{name} is now version {deployed['version']} ({(time.monotonic() - started_s) * 1000:.0f} ms)"
            )

    def _gone(self, path: Path) -> None:
        try:
            name = function_name(path)
        except InvalidManifest:
            return
        if name in self._deployed:
            self._say(
                "note",
                f"{path.name} is gone;{self._still(path).removeprefix(';')}. To remove it: sandlot functions {name} --delete",
            )

    def _still(self, path: Path) -> str:
        try:
            deployed = self._deployed.get(function_name(path))
        except InvalidManifest:
            deployed = None
        return f"; {deployed['name']} version {deployed['version']} still serves" if deployed else ""
