"""`sandlot key`: keys are made beside the API, straight in Redis, by whoever may write there.

Knows: how the commands reach the key store. Does not know: what a key looks like or how it is checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from sandlot.cli.access import data_dir
from sandlot.cli.output import note, print_json
from sandlot.errors import CallerError, InvalidSettings
from sandlot.jobs.schema import agree
from sandlot.keys import Key, KeyStore, Scope
from sandlot.settings import load_settings

_Answer = TypeVar("_Answer")
_DAY_S = 86_400


def create(scopes: Sequence[str], prefix: str, note_text: str, days: int) -> None:
    unknown = [scope for scope in scopes if scope not in list(Scope)]
    if unknown:
        raise CallerError(f"{unknown[0]!r} is no scope; there are: {', '.join(Scope)}")
    chosen = [Scope(scope) for scope in scopes]
    token, key = _with_store(
        lambda store: store.create(chosen, prefix=prefix, lifetime_s=days * _DAY_S, note=note_text)
    )
    print(token)
    note(f"key {key.id}: {', '.join(sorted(key.scopes))}; it is shown this once and stored nowhere")


def print_all(as_json: bool) -> None:
    found = _with_store(lambda store: store.list())
    if as_json:
        print_json(
            [{name: value for name, value in msgspec.to_builtins(key).items() if name != "digest"} for key in found]
        )
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("ID", "SCOPES", "PREFIX", "STATE", "CREATED", "NOTE"):
        table.add_column(heading)
    for key in found:
        table.add_row(key.id, ", ".join(sorted(key.scopes)), key.prefix, _state(key), _day(key.created_ms), key.note)
    Console().print(table)


def revoke(key_id: str) -> None:
    key = _with_store(lambda store: store.revoke(key_id.removeprefix("sk_")))
    print(f"key {key.id} is revoked")


def _with_store(use: Callable[[KeyStore], Awaitable[_Answer]]) -> _Answer:
    settings = load_settings()
    running = data_dir(settings).running()
    url = settings.redis_url.get_secret_value() or (running.redis_url if running else "")
    if not url:
        raise InvalidSettings("no Redis to keep keys in: set SANDLOT_REDIS_URL, or start sandlot up in this folder")

    async def run() -> _Answer:
        client = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        try:
            await agree(client.execute_command)
            return await use(KeyStore(client))
        finally:
            await client.aclose()

    return asyncio.run(run())


def _state(key: Key) -> str:
    if key.revoked_ms:
        return "revoked"
    if key.expires_ms:
        return f"until {_day(key.expires_ms)}" if key.expires_ms > datetime.now(UTC).timestamp() * 1000 else "expired"
    return "valid"


def _day(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).date().isoformat()
