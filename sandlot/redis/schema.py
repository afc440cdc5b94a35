"""Which version of its layout the data in Redis has, and whether this Sandlot understands it.

Knows: the number, where it is written, what to say to whoever cannot go on. Does not know: what the layout is (`keys.py`, the scripts).
The number changes when a process of the version before could misread what one of the next has written: another meaning of a key or a
field, another form of an envelope. What old processes merely do not look at (a new key, a new field) is no change, so that most upgrades
can be rolled: old and new processes side by side on the same data.
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
    """Write our number into an empty Redis, or compare it. `call` sends one command, as `Link.call` and redis-py's `execute_command` do.

    Raises:
        SchemaMismatch: whoever called must not go on, not even to read.
        QueueUnavailable, redis.RedisError: as `call` does.
    """
    try:
        found = await call("GET", keys.SCHEMA)
        if found is None:
            # Not at once, since SET is refused by a Redis that is full, and nothing needs to be written into one that has data.
            await call("SET", keys.SCHEMA, SCHEMA, "NX")
            found = await call("GET", keys.SCHEMA)
    except (hiredis.ReplyError, redis.ResponseError) as error:
        raise SchemaMismatch(f"Redis does not let Sandlot read and write {keys.SCHEMA}: {error}") from None
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    if text != str(SCHEMA):
        raise SchemaMismatch(_why_not(text))


def _why_not(found: str) -> str:
    ours = f"Sandlot {version('sandlot')}, which understands schema {SCHEMA}"
    if found.isdecimal() and int(found) > SCHEMA:
        return (
            f"the data in this Redis has schema {found}; this is {ours}. Start the Sandlot that wrote it or a newer one,"
            " or give this one another Redis or database (SANDLOT_REDIS_URL)"
        )
    if found.isdecimal():
        return (
            f"the data in this Redis has schema {found}, which is older than this Sandlot can read; this is {ours}. Let the Sandlot that"
            " wrote it finish its jobs, then deploy the functions again into an empty Redis or database (docs/upgrades.md)"
        )
    return (
        f"{keys.SCHEMA} in this Redis is {found[:40]!r} and not a number; this is {ours}. Somebody else wrote it: give Sandlot"
        " a Redis or database of its own (SANDLOT_REDIS_URL)"
    )
