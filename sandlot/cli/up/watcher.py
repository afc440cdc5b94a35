"""Watcher of a folder of functions: deploys them once, and each again whenever it is saved.

A version that does not parse is refused before anything changes, so the last good one still serves.
So does the last version of a file that was deleted, because editors and git delete files only to
write them again.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from watchfiles import DefaultFilter, awatch

from sandlot.cli.deploy import POLL_S, deploy_path, refresh_version
from sandlot.cli.up.screen import Report
from sandlot.client import Client
from sandlot.errors import ApiUnreachable, InvalidManifest, SandlotError, TryAgain
from sandlot.functions.source import MANIFEST_FILE, function_name, function_paths

RETRY_S: Final = 1.0
"""Pause between two attempts to deploy what was saved while the API did not answer."""


class FunctionsFolder:
    """A folder whose functions are deployed, and what is deployed of it."""

    def __init__(self, folder: Path, client: Client, node: Path | None, report: Report) -> None:
        self._folder = folder.resolve()
        self._client = client
        self._node = node
        self._report = report
        self._deployed: dict[str, dict[str, Any]] = {}
        """The active version's document by function name."""
        self._builds: dict[str, asyncio.Task[None]] = {}
        """Waits for a version's dependencies, by function name."""
        self._to_retry: set[Path] = set()
        """Paths saved while the API did not answer."""
        self.first_deploy_done = asyncio.Event()

    @property
    def deployed(self) -> list[str]:
        return sorted(self._deployed)

    async def watch(self) -> None:
        """Deploy every function, set `first_deploy_done`, then deploy saves until cancelled."""
        try:
            await self._watch_changes(polling=False)
        except OSError as error:
            # No inotify watches are left (fs.inotify.max_user_watches), or the file system has
            # none.
            self._report(
                "note", f"the kernel cannot report saves ({error.strerror or error}); polling for them instead"
            )
            await self._watch_changes(polling=True)

    async def deploy_all(self) -> None:
        """Deploy every function in the folder; report and skip those that cannot be deployed."""
        for path in self._paths():
            await self._deploy(path, quiet=True)

    async def _watch_changes(self, *, polling: bool) -> None:
        changes = awatch(self._folder, watch_filter=DefaultFilter(), step=40, force_polling=polling)
        next_changes = asyncio.ensure_future(anext(changes))
        try:
            # awatch sets its watches before it first waits, so after this turn of the loop every
            # save
            # is seen and the first deploy misses none.
            await asyncio.sleep(0)
            await self.deploy_all()
            self.first_deploy_done.set()
            while True:
                done, _ = await asyncio.wait({next_changes}, timeout=RETRY_S if self._to_retry else None)
                if not done:
                    await self._retry_deploys()
                    continue
                changed = {Path(path) for _, path in await next_changes}
                next_changes = asyncio.ensure_future(anext(changes))
                inside = {path.relative_to(self._folder).parts for path in changed}
                await self._deploy_changed({self._folder / parts[0] for parts in inside if parts})
        finally:
            tasks = [next_changes, *self._builds.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await changes.aclose()

    async def _deploy_changed(self, paths: set[Path]) -> None:
        known = set(self._paths())
        for path in sorted(paths):
            if path in known:
                await self._deploy(path)
            elif not path.exists():
                self._report_deleted(path)
            elif path.is_dir() and not (path / MANIFEST_FILE).is_file():
                self._report("note", f"{path.name}/ is not a function: it has no {MANIFEST_FILE}")

    async def _retry_deploys(self) -> None:
        for path in sorted(self._to_retry):
            if path.exists():
                await self._deploy(path)
            else:
                self._to_retry.discard(path)

    def _paths(self) -> list[Path]:
        """Return the first path for each function name; report the others and invalid names."""
        chosen: dict[str, Path] = {}
        for path in function_paths(self._folder):
            try:
                first = chosen.setdefault(function_name(path), path)
            except InvalidManifest as error:
                self._report("bad", str(error))
                continue
            if first is not path:
                self._report(
                    "bad",
                    f"{path.name} and {first.name} would both be {function_name(path)!r}; {path.name} is skipped",
                )
        return list(chosen.values())

    async def _deploy(self, path: Path, *, quiet: bool = False) -> None:
        """Deploy one path and report how it went; `quiet` leaves out a success."""
        started_s = time.monotonic()
        try:
            deployed = await asyncio.to_thread(deploy_path, self._client, path, node=self._node)
        except (ApiUnreachable, TryAgain) as error:
            if path not in self._to_retry:
                self._to_retry.add(path)
                self._report("bad", f"{error}{self._still_serving(path)}; {path.name} is deployed when it answers")
            return
        except SandlotError as error:
            self._to_retry.discard(path)
            self._report("bad", f"{error}{self._still_serving(path)}")
            return
        self._to_retry.discard(path)
        name = deployed["name"]
        if name in self._builds:
            self._builds.pop(name).cancel()  # the latest save counts
        if deployed["state"] == "pending":
            # In the background, so that other functions can be saved meanwhile.
            self._report("note", f"{name} version {deployed['version']} is waiting for its dependencies")
            build = self._wait_for_build(name, deployed, started_s)
            self._builds[name] = asyncio.create_task(build, name=f"follow {name}")
            return
        self._set_active(name, deployed, started_s, quiet=quiet)

    async def _wait_for_build(self, name: str, deployed: dict[str, Any], started_s: float) -> None:
        try:
            while deployed["state"] == "pending":
                await asyncio.sleep(POLL_S)
                deployed = await asyncio.to_thread(refresh_version, self._client, deployed)
        except SandlotError as error:
            self._report("bad", str(error))
            return
        self._set_active(name, deployed, started_s)

    def _set_active(self, name: str, deployed: dict[str, Any], started_s: float, *, quiet: bool = False) -> None:
        before = self._deployed.get(name, {}).get("version")
        self._deployed[name] = deployed
        if quiet:
            return
        if before == deployed["version"]:
            self._report("same", f"{name} is unchanged, version {before}")
        else:
            took_ms = (time.monotonic() - started_s) * 1000
            self._report("ok", f"{name} is now version {deployed['version']} ({took_ms:.0f} ms)")

    def _report_deleted(self, path: Path) -> None:
        try:
            name = function_name(path)
        except InvalidManifest:
            return
        if name in self._deployed:
            self._report(
                "note",
                f"{path.name} is gone{self._still_serving(path)}. To delete it: sandlot functions {name} --delete",
            )

    def _still_serving(self, path: Path) -> str:
        """Return a clause that names the version that still serves; empty if there is none."""
        try:
            deployed = self._deployed.get(function_name(path))
        except InvalidManifest:
            deployed = None
        return f"; {deployed['name']} version {deployed['version']} still serves" if deployed else ""
