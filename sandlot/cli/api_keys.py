"""`sandlot key`: keys are made beside the API, straight in Redis, by whoever may write there.

Knows: how the commands reach the key store. Does not know: what a key looks like or how it is checked.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from sandlot.api_keys import DEFAULT_OWNER, ApiKey, KeyStore, Scope
from sandlot.audit_log import AuditLog, Entry
from sandlot.cli.access import data_dir
from sandlot.cli.output import note, print_json
from sandlot.errors import CallerError, InvalidSettings
from sandlot.redis.connection import connect
from sandlot.redis.schema import check_schema
from sandlot.settings import load_settings
from sandlot.transport_security import require_safe_redis

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
        ),
        lambda made: _entry("key-create", made[1]),
    )
    print(token)
    _told(key)


def rotate(key_id: str, overlap_h: int) -> None:
    token, key = _with_store(
        lambda store: store.rotate(key_id.removeprefix("sk_"), overlap_h * _HOUR_S),
        lambda made: _entry("key-rotate", made[1], replaces=key_id),
    )
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
    key = _with_store(lambda store: store.revoke(key_id.removeprefix("sk_")), lambda key: _entry("key-revoke", key))
    print(f"key {key.id} is revoked")


def _entry(action: str, key: ApiKey, replaces: str = "") -> Entry:
    target = f"{key.id} for {replaces}" if replaces else key.id
    return Entry(action=action, outcome="ok", who=getpass.getuser(), target=target, source="command")


def _told(key: ApiKey) -> None:
    note(f"key {key.id}: {', '.join(sorted(key.scopes))}; it is shown this once and stored nowhere")


def _with_store(
    use: Callable[[KeyStore], Awaitable[_Answer]], entry: Callable[[_Answer], Entry] | None = None
) -> _Answer:
    """
    Args:
        entry: what the audit log is to say of it.
    """
    settings = load_settings()
    home = data_dir(settings)
    # Where the nearest data folder is, whatever it is called in the settings.
    settings = settings.model_copy(update={"data": home.path})
    running = home.running()
    url = require_safe_redis(settings) or (running.redis_url if running else "")
    if not url:
        raise InvalidSettings("no Redis to keep keys in: set SANDLOT_REDIS_URL, or start sandlot up in this folder")

    signing_key = settings.read_signing_key()
    audit = None if settings.audit_file is None else AuditLog(settings.audit_file)

    async def run() -> _Answer:
        client = connect(url)
        try:
            await check_schema(client.execute_command)
            answer = await use(KeyStore(client, signing_key))
            if audit is not None and entry is not None:
                audit.write(entry(answer))
            return answer
        finally:
            await client.aclose()

    return asyncio.run(run())


def _state(key: ApiKey) -> str:
    if key.revoked_ms:
        return "revoked"
    if key.expires_ms:
        return f"until {_day(key.expires_ms)}" if key.expires_ms > datetime.now(UTC).timestamp() * 1000 else "expired"
    return "valid"


def _day(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).date().isoformat()
