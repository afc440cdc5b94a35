"""A restore from nothing but a backup and the signing key, step by step as in docs/upgrades.md."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final

from tests.chaos.rig import VALKEY_FOLDER
from tests.chaos.scene import Act, Scene

SECRET: Final = "kept under the signing key"
KEEPER: Final = "import os\n\n\ndef handler(event, context):\n    return os.environ['TOKEN']\n"
AOF_FOLDER: Final = "appendonlydir"
SNAPSHOT: Final = "dump.rdb"


def restore(kind: str) -> Act:
    async def act(scene: Scene) -> None:
        rig = scene.rig
        await _make_something_to_keep(scene)
        await scene.pause(1.0, 2.0)
        assert rig.api is not None
        await rig.api.stop()
        for worker in rig.living():
            await worker.stop()
        backup = rig.folder / "backup"
        backup.mkdir()
        await (
            _copy_file(rig.redis, rig.folder / VALKEY_FOLDER, backup) if kind == "file" else _snapshot(scene, backup)
        )
        affected = scene.history.ids - scene.history.records.keys()
        assert rig.valkey is not None
        await rig.valkey.kill()
        (rig.folder / VALKEY_FOLDER).rename(rig.folder / "lost")
        (rig.folder / VALKEY_FOLDER).mkdir()
        shutil.copytree(backup, rig.folder / VALKEY_FOLDER, dirs_exist_ok=True)
        if kind == "snapshot":
            await _load_snapshot(scene)
        await rig.start_valkey()
        await rig.start_api()
        for _ in range(2):
            await rig.start_worker()
        scene.struck("restored", affected)
        await _see_what_was_kept(scene)

    act.__doc__ = f"All is stopped, the data folder is lost, and what is left is the backup ({kind}): it is put into a new Valkey."
    return act


async def _copy_file(client: Any, folder: Path, backup: Path) -> None:
    """No rewrite may begin meanwhile: it would take files away."""
    await client.config_set("auto-aof-rewrite-percentage", 0)
    while (await client.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110  # Redis has no event for it
        await asyncio.sleep(0.05)
    shutil.copytree(folder / AOF_FOLDER, backup / AOF_FOLDER)


async def _snapshot(scene: Scene, backup: Path) -> None:
    client = scene.rig.redis
    before = await client.lastsave()
    await asyncio.sleep(1)  # LASTSAVE counts in seconds
    await client.bgsave()
    while await client.lastsave() == before:  # noqa: ASYNC110  # Redis has no event for it
        await asyncio.sleep(0.05)
    shutil.copy(scene.rig.folder / VALKEY_FOLDER / SNAPSHOT, backup / SNAPSHOT)


async def _load_snapshot(scene: Scene) -> None:
    """Load the dump into a server without `appendonly yes`, which would ignore it.

    The server then writes a new append-only file.
    """
    client = scene.rig.redis
    reader = scene.rig.spawn_valkey(appendonly="no")
    await scene.rig.valkey_answers()
    await client.config_set("appendonly", "yes")
    while True:
        state = await client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            break
        await asyncio.sleep(0.05)
    assert state["aof_last_bgrewrite_status"] == "ok", state
    await reader.stop()


async def _make_something_to_keep(scene: Scene) -> None:
    ask = scene.callers.ask
    json_type = {"content-type": "application/json"}
    body = json.dumps({"value": SECRET}).encode()
    answer = await ask("PUT", "/v1/secrets/TOKEN", body, json_type)
    assert answer.status in (200, 201, 204), answer
    source = {"source": KEEPER, "filename": "keeper.py", "manifest": {"secrets": ["TOKEN"]}}
    answer = await ask("PUT", "/v1/functions/keeper", json.dumps(source).encode(), json_type)
    assert answer.status == 201, answer
    scene.callers.call(sync=False, work_s=0.1, delay="5s")


async def _see_what_was_kept(scene: Scene) -> None:
    """The key that opens the API is kept as a hash in Redis as well: this is answered at all."""
    answer = await scene.callers.ask("POST", "/v1/functions/keeper/invoke", b"null")
    if answer.status != 200 or answer.json() != SECRET:
        scene.history.broke.append(f"a function with a secret should answer with it: {answer.status} {answer.body!r}")
    scene.history.requests += 1  # its job is one of those that are counted
