"""Which workers beat: for health checks, which run beside a worker and ask about that one.

Knows: where beats are kept and how old one may be. Does not know: what a worker does, how a health check is asked for.
"""

from __future__ import annotations

from typing import Final, cast

import redis

from sandlot.jobs import keys

SILENT_MS: Final = 10_000
"""A worker beats every second; ten missed beats are no hiccup."""


def beating(client: redis.Redis, host: str) -> list[str]:
    """Names of the workers on that host that have beaten within the last ten seconds.

    Raises:
        redis.RedisError: Redis cannot be asked.
    """
    seconds, microseconds = client.time()
    since_ms = seconds * 1000 + microseconds // 1000 - SILENT_MS
    found: set[bytes] = set()
    for placement in cast("set[bytes]", client.smembers(keys.PLACEMENTS)):
        beats = client.zrangebyscore(keys.BEATS + placement.decode(), since_ms, "+inf")
        found.update(cast("list[bytes]", beats))
    return sorted(name.decode() for name in found if name.startswith(f"{host}.".encode()))
