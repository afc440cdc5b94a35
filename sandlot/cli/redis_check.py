"""What `sandlot doctor` says of the Redis or Valkey: its version, its settings, who gets in.

Knows: which settings lose jobs or open doors, which versions have flaws that matter here, what to do about each. Does not know: how checks
are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sandlot.cli.access import data_dir
from sandlot.cli.check import Check
from sandlot.errors import SandlotError, SchemaMismatch
from sandlot.redis.connection import connect, shown_url
from sandlot.redis.schema import SCHEMA, check_schema
from sandlot.settings import Settings
from sandlot.transport_security import is_local

Version = tuple[int, ...]

OLDEST: Final = (7, 0)
FIXED: Final[Mapping[str, Mapping[Version, Version]]] = {
    # CVE-2025-49844: a script runs code in the server; nobody fixed 7.0.
    "redis": {(7, 2): (7, 2, 11), (7, 4): (7, 4, 6), (8, 0): (8, 0, 4), (8, 2): (8, 2, 2)},
    # The same; and CVE-2025-67733 (a script forges answers), CVE-2026-27623 (9.0: a stranger ends the server).
    "valkey": {(7, 2): (7, 2, 12), (8, 0): (8, 0, 7), (8, 1): (8, 1, 6), (9, 0): (9, 0, 3)},
}
"""By server and release line, the first version without the flaws above; what is newer than every line here has none of them."""
_ASKED: Final = (
    "appendonly", "appendfsync", "maxmemory-policy", "stream-node-max-bytes", "bind", "protected-mode",
)  # fmt: skip
_USERS: Final = "sandlot redis-acl prints users with passwords for each role (docs/security.md)"


async def examine_redis(settings: Settings) -> list[Check]:
    """Redis or Valkey: the one that is configured, else the embedded one that runs here."""
    home = data_dir(settings)
    running = home.running()
    url = settings.redis_url.get_secret_value() or (running.redis_url if running else "")
    if not url:
        return [Check("Queue", "ok", "an embedded Valkey, when sandlot up starts it (SANDLOT_REDIS_URL is not set)")]
    try:
        client = connect(url)
        try:
            configuration = await _configuration(client)
            server = list(judged(shown_url(url), await client.info(), configuration))
            door = judged_door(url, configuration, stranger=await _lets_strangers_in(url))
            return [*server, *door, await _schema(client)]
        finally:
            await client.aclose()
    except (RedisError, OSError, SandlotError) as error:
        return [Check("Queue", "failed", f"{shown_url(url)}: {error}", "start it, or correct SANDLOT_REDIS_URL")]


async def _schema(client: Redis) -> Check:
    try:
        await check_schema(client.execute_command)
    except SchemaMismatch as error:
        return Check("Data", "failed", "not in the layout of this Sandlot", error.message)
    return Check("Data", "ok", f"schema {SCHEMA}")


async def _configuration(client: Redis) -> Mapping[str, str]:
    """Its settings; empty where CONFIG is not allowed, as at most providers."""
    try:
        settings = await client.config_get(*_ASKED)
        return {str(name): str(value) for name, value in settings.items()}
    except RedisError:
        return {}


async def _lets_strangers_in(url: str) -> bool:
    """Whether somebody without a password may read what is there."""
    stranger = connect(_without_user(url))
    try:
        await stranger.exists("sandlot:stranger")
    except RedisError:
        return False
    finally:
        await stranger.aclose()
    return True


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def judged(where: str, info: Mapping[str, Any], configuration: Mapping[str, str]) -> Iterator[Check]:
    """The server itself, and whether it keeps what it is given.

    Args:
        info: what INFO says.
        configuration: what CONFIG GET says; empty if it may not be asked.
    """
    yield _version(where, info)
    configuration = configuration or _told_by_info(info)
    if "maxmemory-policy" not in configuration:
        yield Check(
            "Queue settings",
            "warning",
            "CONFIG is not allowed here",
            "see to it that appendonly is yes and maxmemory-policy is noeviction",
        )
        return
    yield _durability(configuration)
    yield _eviction(configuration["maxmemory-policy"])
    node_bytes = int(configuration.get("stream-node-max-bytes", 256))  # not told: nothing to complain about
    if node_bytes == 0 or node_bytes > 1024:
        yield Check(
            "Memory per result",
            "warning",
            f"stream-node-max-bytes {node_bytes}",
            "CONFIG SET stream-node-max-bytes 256: a kept result then takes 0.5 instead of 4.4 KiB",
        )


def judged_door(url: str, configuration: Mapping[str, str], *, stranger: bool) -> Iterator[Check]:
    """Who gets in, and who can listen on the way.

    Args:
        stranger: whether it serves somebody without a password.
    """
    here = is_local(url)
    if stranger and (not here or _listens_to_the_network(configuration)):
        found = (
            "no password, and it listens to the network: whoever reaches it can read every event, and drop every job"
        )
        yield Check("Password", "failed", found, f"give it passwords: {_USERS}; or bind 127.0.0.1")
    elif stranger and not url.startswith("unix:"):
        found = "none: every user of this machine can read every event, and drop every job"
        yield Check("Password", "warning", found, f"a Unix socket, or passwords: {_USERS}")
    else:
        yield Check("Password", "ok", "a Unix socket" if stranger else "needed")
    if not here and not url.startswith("rediss://"):
        found = "none: whoever is on the way reads events, results and the password"
        yield Check("Encryption", "warning", found, "rediss:// (docs/security.md), or a network of its own")


def _version(where: str, info: Mapping[str, Any]) -> Check:
    server = "valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "redis"
    shown = str(info.get("valkey_version") or info.get("redis_version"))
    version = tuple(int(part) for part in shown.split(".")[:3] if part.isdigit())
    found = f"{server.capitalize()} {shown} at {where}"
    if version[:2] < OLDEST:
        return Check("Queue", "failed", found, "Sandlot's scripts need version 7.0 or newer")
    wanted = _first_fixed(server, version)
    if wanted is None:
        return Check("Queue", "ok", found)
    flaws = f"it has known flaws by which a client runs code in the server or ends it; fixed in {wanted}"
    return Check("Queue", "warning", found, f"{flaws} (your distribution may have patched its own: ask it)")


def _first_fixed(server: str, version: Version) -> str | None:
    """The version to go to; none if this one has no flaw that is known here."""
    lines = FIXED[server]
    line = lines.get(version[:2])
    if line is None and version[:2] > max(lines):
        return None
    if line is not None and version >= line:
        return None
    return ".".join(map(str, line or min(fixed for of, fixed in lines.items() if of > version[:2])))


def _durability(configuration: Mapping[str, str]) -> Check:
    if configuration.get("appendonly") == "yes":
        return Check("Durability", "ok", f"append-only file, fsync {configuration.get('appendfsync', 'not told')}")
    remedy = "CONFIG SET appendonly yes: otherwise a restart of the server loses accepted jobs"
    return Check("Durability", "warning", "no append-only file", remedy)


def _eviction(policy: str) -> Check:
    if policy == "noeviction":
        return Check("Eviction", "ok", policy)
    remedy = "CONFIG SET maxmemory-policy noeviction: otherwise jobs vanish when memory is short"
    return Check("Eviction", "failed", policy, remedy)


def _listens_to_the_network(configuration: Mapping[str, str]) -> bool:
    """False if it cannot be told. (Protected mode turns away whoever is elsewhere and has no password.)"""
    if configuration.get("protected-mode", "yes") == "yes":
        return False
    bound = [word.lstrip("-") for word in configuration.get("bind", "").split()] or ["*"]
    return not all(word == "::1" or word.startswith("127.") for word in bound)


def _told_by_info(info: Mapping[str, Any]) -> Mapping[str, str]:
    """What INFO has of the settings: users of API and workers may not ask CONFIG."""
    told = {"appendonly": "yes" if info.get("aof_enabled") else "no"}
    return told | ({"maxmemory-policy": str(info["maxmemory_policy"])} if "maxmemory_policy" in info else {})
