"""`sandlot doctor`: check this machine and its Redis or Valkey, and name a remedy for each problem.

The sandbox is attacked by the worker's own doctor in a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from sandlot.cli.options import AsJson, find_data_dir
from sandlot.cli.output import BROKEN_INSTALLATION, print_json

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sandlot.settings import Settings

Grade = Literal["ok", "warning", "failed"]
ReleaseNumber = tuple[int, ...]

OLDEST_NODE: Final = 20
OLDEST_REDIS: Final[ReleaseNumber] = (7, 0)
FIXED_RELEASES: Final[Mapping[str, Mapping[ReleaseNumber, ReleaseNumber]]] = {
    # CVE-2025-49844: a script runs code in the server; 7.0 was never fixed.
    "redis": {(7, 2): (7, 2, 11), (7, 4): (7, 4, 6), (8, 0): (8, 0, 4), (8, 2): (8, 2, 2)},
    # The same, CVE-2025-67733 (a script forges replies) and CVE-2026-27623 (9.0: an unauthenticated
    # client ends the
    # server).
    "valkey": {(7, 2): (7, 2, 12), (8, 0): (8, 0, 7), (8, 1): (8, 1, 6), (9, 0): (9, 0, 3)},
}
"""By server and release line, the first release without the flaws above. Lines newer than all of
these have none."""
_SETTINGS_READ: Final = (
    "appendonly", "appendfsync", "maxmemory-policy", "stream-node-max-bytes", "bind", "protected-mode",
)  # fmt: skip
_ACL_HINT: Final = "sandlot redis-acl prints users with passwords for each role (docs/security.md)"
_SELFTEST_DEADLINE_S: Final = 120.0
_MARKS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[bold red]✗[/]"}


class Check(msgspec.Struct, frozen=True):
    """One check: its name, its grade, what it found and a remedy.

    The worker's doctor prints a list of these as JSON.
    """

    name: str
    grade: Grade
    found: str
    remedy: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Check Python, Node, Redis and the sandbox on this machine, and say how to fix each problem.

    Exits with status 4 if functions cannot run here.
    """
    import asyncio

    from sandlot.settings import load_settings

    settings = load_settings()
    checks = [_check_python(), _check_node(settings), *asyncio.run(_check_redis(settings)), *_check_sandbox()]
    if as_json:
        print_json(checks)
    else:
        _show_checks(checks)
    sys.exit(BROKEN_INSTALLATION if any(check.grade == "failed" for check in checks) else 0)


def check_server(where: str, info: Mapping[str, Any], configuration: Mapping[str, str]) -> Iterator[Check]:
    """Check a server's version and whether its settings preserve accepted jobs.

    Args:
        where: the server's URL, as it may be shown.
        info: the reply to INFO.
        configuration: the reply to CONFIG GET; empty if CONFIG is not allowed.
    """
    yield _check_version(where, info)
    configuration = configuration or _settings_in_info(info)
    if "maxmemory-policy" not in configuration:
        yield Check(
            "Queue settings",
            "warning",
            "CONFIG is not allowed here",
            "make sure that appendonly is yes and maxmemory-policy is noeviction",
        )
        return
    yield _check_durability(configuration)
    yield _check_eviction(configuration["maxmemory-policy"])
    node_bytes = int(configuration.get("stream-node-max-bytes", 256))  # INFO lacks it: assume the recommended value
    if node_bytes == 0 or node_bytes > 1024:
        yield Check(
            "Memory per result",
            "warning",
            f"stream-node-max-bytes {node_bytes}",
            "CONFIG SET stream-node-max-bytes 256: a kept result then takes 0.5 instead of 4.4 KiB",
        )


def check_access(url: str, configuration: Mapping[str, str], *, anonymous: bool) -> Iterator[Check]:
    """Check who can connect to the server and who can read the traffic.

    Args:
        anonymous: whether the server serves clients without a password.
    """
    from sandlot.transport_security import is_local

    on_this_machine = is_local(url)
    if anonymous and (not on_this_machine or _listens_to_the_network(configuration)):
        found = (
            "none, and the server listens on the network: anyone who reaches it can read every event and drop every job"
        )
        yield Check("Password", "failed", found, f"set passwords: {_ACL_HINT}; or bind 127.0.0.1")
    elif anonymous and not url.startswith("unix:"):
        found = "none: every user of this machine can read every event and drop every job"
        yield Check("Password", "warning", found, f"use a Unix socket, or set passwords: {_ACL_HINT}")
    else:
        yield Check("Password", "ok", "a Unix socket" if anonymous else "required")
    if not on_this_machine and not url.startswith("rediss://"):
        found = "none: anyone on the network path can read events, results and the password"
        yield Check("Encryption", "warning", found, "use rediss:// (docs/security.md) or a private network")


def _check_python() -> Check:
    from platform import python_version

    return Check("Python", "ok", f"{python_version()} at {sys.executable}")


def _check_node(settings: Settings) -> Check:
    import re

    from sandlot.functions import find_node

    remedy = (
        f"for Node functions, install Node {OLDEST_NODE} or newer, or: pip install 'sandlot[node]'. "
        "Python functions run without it"
    )
    node = find_node(settings.node)
    if node is None:
        place = f" at {settings.node} (SANDLOT_NODE)" if settings.node else ""
        return Check("Node", "warning", f"not found{place}", remedy)
    version = _output_of([str(node), "--version"])
    number = re.match(r"v(\d+)\.", version)
    if number is None or int(number[1]) < OLDEST_NODE:
        return Check("Node", "warning", f"{version or 'does not start'} at {node}", remedy)
    return Check("Node", "ok", f"{version} at {node}")


def _check_sandbox() -> list[Check]:
    """Run the worker's doctor, which attacks a real sandbox, in a process of its own."""
    import subprocess

    from sandlot.cli import installation

    command = installation.command("worker.doctor")
    remedy = f"run it yourself: {' '.join(map(str, command))}"
    try:
        selftest = subprocess.run(
            command,
            env=installation.environment({}),
            capture_output=True,
            timeout=_SELFTEST_DEADLINE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return msgspec.json.decode(selftest.stdout, type=list[Check])
    except subprocess.TimeoutExpired:
        return [Check("Sandbox", "failed", f"the self-test did not end within {_SELFTEST_DEADLINE_S:.0f} s", remedy)]
    except msgspec.MsgspecError:
        lines = selftest.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"the self-test ended with status {selftest.returncode}"
        return [Check("Sandbox", "failed", reason, remedy)]


def _output_of(command: list[str]) -> str:
    import subprocess

    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, env={}, cwd="/"
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


async def _check_redis(settings: Settings) -> list[Check]:
    """Check the Redis or Valkey that is configured, or else the embedded one that runs here."""
    from redis.exceptions import RedisError

    from sandlot.errors import SandlotError
    from sandlot.redis.connection import connect, shown_url

    running = find_data_dir(settings).running()
    url = settings.redis_url.get_secret_value() or (running.redis_url if running else "")
    if not url:
        return [Check("Queue", "ok", "the embedded Valkey that sandlot up starts (SANDLOT_REDIS_URL is not set)")]
    try:
        client = connect(url)
        try:
            configuration = await _read_configuration(client)
            server = list(check_server(shown_url(url), await client.info(), configuration))
            access = check_access(url, configuration, anonymous=await _serves_anonymous_clients(url))
            return [*server, *access, await _check_schema(client)]
        finally:
            await client.aclose()
    except (RedisError, OSError, SandlotError) as error:
        return [Check("Queue", "failed", f"{shown_url(url)}: {error}", "start it, or correct SANDLOT_REDIS_URL")]


async def _check_schema(client: Redis) -> Check:
    from sandlot.errors import SchemaMismatch
    from sandlot.redis.schema import SCHEMA, check_schema

    try:
        await check_schema(client.execute_command)
    except SchemaMismatch as error:
        return Check("Data", "failed", "written in the layout of another Sandlot release", error.message)
    return Check("Data", "ok", f"schema {SCHEMA}")


async def _read_configuration(client: Redis) -> Mapping[str, str]:
    """Return the server's settings; empty if CONFIG is not allowed, as on most hosted servers."""
    from redis.exceptions import RedisError

    try:
        settings = await client.config_get(*_SETTINGS_READ)
        return {str(name): str(value) for name, value in settings.items()}
    except RedisError:
        return {}


async def _serves_anonymous_clients(url: str) -> bool:
    """Return whether a client without a password may read data."""
    from urllib.parse import urlsplit

    from redis.exceptions import RedisError

    from sandlot.redis.connection import connect

    parts = urlsplit(url)
    anonymous = connect(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    try:
        await anonymous.exists("sandlot:anonymous")
    except RedisError:
        return False
    finally:
        await anonymous.aclose()
    return True


def _check_version(where: str, info: Mapping[str, Any]) -> Check:
    server = "valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "redis"
    shown = str(info.get("valkey_version") or info.get("redis_version"))
    version = tuple(int(part) for part in shown.split(".")[:3] if part.isdigit())
    found = f"{server.capitalize()} {shown} at {where}"
    if version[:2] < OLDEST_REDIS:
        return Check("Queue", "failed", found, "Sandlot's scripts need version 7.0 or newer")
    fixed = _first_fixed_release(server, version)
    if fixed is None:
        return Check("Queue", "ok", found)
    flaws = f"it has known flaws that let a client run code in the server or stop it; fixed in {fixed}"
    return Check("Queue", "warning", found, f"{flaws} (check whether your distribution has patched its package)")


def _first_fixed_release(server: str, version: ReleaseNumber) -> str | None:
    """Return the release to upgrade to; None if this one has none of the known flaws."""
    lines = FIXED_RELEASES[server]
    line = lines.get(version[:2])
    if line is None and version[:2] > max(lines):
        return None
    if line is not None and version >= line:
        return None
    return ".".join(map(str, line or min(fixed for of, fixed in lines.items() if of > version[:2])))


def _check_durability(configuration: Mapping[str, str]) -> Check:
    if configuration.get("appendonly") == "yes":
        return Check("Durability", "ok", f"append-only file, fsync {configuration.get('appendfsync', 'unknown')}")
    remedy = "CONFIG SET appendonly yes: otherwise a restart of the server loses accepted jobs"
    return Check("Durability", "warning", "no append-only file", remedy)


def _check_eviction(policy: str) -> Check:
    if policy == "noeviction":
        return Check("Eviction", "ok", policy)
    remedy = "CONFIG SET maxmemory-policy noeviction: otherwise jobs vanish when memory is short"
    return Check("Eviction", "failed", policy, remedy)


def _listens_to_the_network(configuration: Mapping[str, str]) -> bool:
    """Return False if unknown, or if protected mode refuses remote clients without a password."""
    if configuration.get("protected-mode", "yes") == "yes":
        return False
    bound = [word.lstrip("-") for word in configuration.get("bind", "").split()] or ["*"]
    return not all(word == "::1" or word.startswith("127.") for word in bound)


def _settings_in_info(info: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the settings in INFO, because the users of API and workers may not call CONFIG."""
    found = {"appendonly": "yes" if info.get("aof_enabled") else "no"}
    return found | ({"maxmemory-policy": str(info["maxmemory_policy"])} if "maxmemory_policy" in info else {})


def _show_checks(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        table.add_row(_MARKS[check.grade], f"[bold]{escape(check.name)}[/]", escape(check.found))
        if check.remedy:
            table.add_row("", "", f"[yellow]→ {escape(check.remedy)}[/]")
    Console().print(table, highlight=False)
