"""The version of the data layout in Redis (`keys.py` and the scripts), and its check at start.

The number changes when a process of the previous version could misread what one of the next has
written: a key or field with another meaning, an envelope of another form. A new key or field that
old processes ignore does not change it, so that most upgrades can be rolled: old and new processes
run side by side on the same data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

import hiredis
import redis

from sandlot.errors import SchemaMismatch
from sandlot.redis import keys

SCHEMA: Final = 1


async def check_schema(call: Callable[..., Awaitable[Any]]) -> None:
    """Write the number into an empty Redis, or compare it with the one there.

    Args:
        call: sends one command, as `RedisPipeline.call` and redis-py's `execute_command` do.

    Raises:
        SchemaMismatch: the process must not go on, not even to read.
        QueueUnavailable, redis.RedisError: as `call` does.
    """
    try:
        found = await call("GET", keys.SCHEMA)
        if found is None:
            # GET comes first because a full Redis refuses SET, and one with data needs no write.
            await call("SET", keys.SCHEMA, SCHEMA, "NX")
            found = await call("GET", keys.SCHEMA)
    except (hiredis.ReplyError, redis.ResponseError) as error:
        raise SchemaMismatch(f"Redis does not let Sandlot read and write {keys.SCHEMA}: {error}") from None
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    if text != str(SCHEMA):
        raise SchemaMismatch(_mismatch(text))


def _mismatch(found: str) -> str:
    ours = f"Sandlot {version('sandlot')}, which understands schema {SCHEMA}"
    if found.isdecimal() and int(found) > SCHEMA:
        return (
            f"the data in this Redis has schema {found}; this is {ours}. Start the Sandlot that wrote it or a newer one,"
            " or give this one another Redis or database (SANDLOT_REDIS_URL)"
        )
    if found.isdecimal():
        return (
            f"the data in this Redis has schema {found}, which is older than this Sandlot can read;"
            f" this is {ours}. Let the Sandlot that wrote it finish its jobs, then deploy the"
            " functions again into an empty Redis or database (docs/upgrades.md)"
        )
    return (
        f"{keys.SCHEMA} in this Redis is {found[:40]!r} and not a number; this is {ours}. Another"
        " program wrote it: give Sandlot a Redis or database of its own (SANDLOT_REDIS_URL)"
    )
