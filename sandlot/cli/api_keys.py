"""`sandlot key`: keys are made beside the API, straight in Redis, by whoever may write there.

Knows: how the commands reach the key store. Does not know: what a key looks like or how it is checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from sandlot.cli.access import data_dir
from sandlot.cli.output import note, print_json
from sandlot.errors import CallerError, InvalidSettings
from sandlot.exposure import require_safe_redis
from sandlot.jobs.connection import connect
from sandlot.jobs.schema import agree
from sandlot.keys import DEFAULT_OWNER, Key, KeyStore, Scope
from sandlot.settings import load_settings

_Answer = TypeVar("_Answer")
_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S


def create(scopes: Sequence[str], prefix: str, owner: str, note_text: str, days: int) -> None:
    unknown = [scope for scope in scopes if scope not in list(Scope)]
    if unknown:
        raise CallerError(f"{unknown[0]!r} is no scope; there are: {', '.join(Scope)}")
    chosen = [Scope(scope) for scope in scopes]
    token, key = _with_store(
        lambda store: store.create(
            chosen, owner=owner or DEFAULT_OWNER, prefix=prefix, lifetime_s=days * _DAY_S, note=note_text
        )
    )
    print(token)
    _told(key)


def rotate(key_id: str, overlap_h: int) -> None:
    token, key = _with_store(lambda store: store.rotate(key_id.removeprefix("sk_"), overlap_h * _HOUR_S))
    print(token)
    _told(key)
    when = f"in {overlap_h} hour{'s' if overlap_h > 1 else ''}" if overlap_h else "from now on"
    note(f"the old key is refused {when}")


def print_all(as_json: bool) -> None:
    found = _with_store(lambda store: store.list())
    if as_json:
        print_json(
            [{name: value for name, value in msgspec.to_builtins(key).items() if name != "digest"} for key in found]
        )
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("ID", "SCOPES", "PREFIX", "OWNER", "STATE", "CREATED", "NOTE"):
        table.add_column(heading)
    for key in found:
        scopes = ", ".join(sorted(key.scopes))
        table.add_row(key.id, scopes, key.prefix, key.owner, _state(key), _day(key.created_ms), key.note)
    Console().print(table)


def revoke(key_id: str) -> None:
    key = _with_store(lambda store: store.revoke(key_id.removeprefix("sk_")))
    print(f"key {key.id} is revoked")


def _told(key: Key) -> None:
    note(f"key {key.id}: {', '.join(sorted(key.scopes))}; it is shown this once and stored nowhere")


def _with_store(use: Callable[[KeyStore], Awaitable[_Answer]]) -> _Answer:
    settings = load_settings()
    running = data_dir(settings).running()
    url = require_safe_redis(settings) or (running.redis_url if running else "")
    if not url:
        raise InvalidSettings("no Redis to keep keys in: set SANDLOT_REDIS_URL, or start sandlot up in this folder")

    async def run() -> _Answer:
        client = connect(url)
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
