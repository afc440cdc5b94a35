"""`sandlot doctor`: what this machine has, what it lacks, and what to do about it.

Knows: checks of Python, Node, keys and Redis, and how to ask the worker's own doctor about the sandbox. Does not know: how a wall is tested.
"""

from __future__ import annotations

import asyncio
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sandlot.cli import installation
from sandlot.cli.access import data_dir
from sandlot.cli.output import print_json
from sandlot.errors import SandlotError, SchemaMismatch
from sandlot.functions import find_node
from sandlot.jobs.connection import connect, shown_url
from sandlot.jobs.schema import SCHEMA, agree
from sandlot.settings import Settings, load_settings

Grade = Literal["ok", "warning", "failed"]
OLDEST_NODE: Final = 20
OLDEST_REDIS: Final = (7, 0)
_PROBE_DEADLINE_S: Final = 120.0
_MARKS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[bold red]✗[/]"}
_BROKEN: Final = 4


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; the worker's doctor prints a list of these as JSON."""

    name: str
    grade: Grade
    found: str
    remedy: str = ""


def examine(as_json: bool) -> int:
    """Make every check and show it; 0, or the exit status of an installation that cannot run functions."""
    settings = load_settings()
    checks = [_python(), _node(settings), *asyncio.run(_queue(settings)), *_sandbox()]
    if as_json:
        print_json(checks)
    else:
        _show(checks)
    return _BROKEN if any(check.grade == "failed" for check in checks) else 0


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _node(settings: Settings) -> Check:
    remedy = (
        "for Node functions: install Node 20 or newer, or pip install 'sandlot[node]'; Python functions run without it"
    )
    node = find_node(settings.node)
    if node is None:
        return Check(
            "Node", "warning", "not found" + (f" at {settings.node} (SANDLOT_NODE)" if settings.node else ""), remedy
        )
    version = _output_of([str(node), "--version"])
    number = re.match(r"v(\d+)\.", version)
    if number is None or int(number[1]) < OLDEST_NODE:
        return Check("Node", "warning", f"{version or 'does not start'} at {node}", remedy)
    return Check("Node", "ok", f"{version} at {node}")


async def _queue(settings: Settings) -> list[Check]:
    """Redis or Valkey: the one that is configured, else the embedded one that runs here."""
    home = data_dir(settings)
    running = home.running()
    url = settings.redis_url.get_secret_value() or (running.redis_url if running else "")
    if not url:
        return [Check("Queue", "ok", "an embedded Valkey, when sandlot up starts it (SANDLOT_REDIS_URL is not set)")]
    try:
        client = connect(url)
        try:
            server = list(_judged(shown_url(url), await client.info(), await _configuration(client)))
            return [*server, await _schema(client)]
        finally:
            await client.aclose()
    except (RedisError, OSError, SandlotError) as error:
        return [Check("Queue", "failed", f"{shown_url(url)}: {error}", "start it, or correct SANDLOT_REDIS_URL")]


async def _schema(client: Redis) -> Check:
    try:
        await agree(client.execute_command)
    except SchemaMismatch as error:
        return Check("Data", "failed", "not in the layout of this Sandlot", error.message)
    return Check("Data", "ok", f"schema {SCHEMA}")


async def _configuration(client: Redis) -> Mapping[str, str]:
    """Its settings; empty where CONFIG is not allowed, as at most providers."""
    try:
        settings = await client.config_get("appendonly", "appendfsync", "maxmemory-policy", "stream-node-max-bytes")
        return {str(name): str(value) for name, value in settings.items()}
    except RedisError:
        return {}


def _told_by_info(info: Mapping[str, Any]) -> Mapping[str, str]:
    """What INFO has of the settings: users of API and workers may not ask CONFIG."""
    told = {"appendonly": "yes" if info.get("aof_enabled") else "no"}
    return told | ({"maxmemory-policy": str(info["maxmemory_policy"])} if "maxmemory_policy" in info else {})


def _judged(where: str, info: Mapping[str, Any], configuration: Mapping[str, str]) -> Iterator[Check]:
    server = str(info.get("server_name", "redis")).capitalize()
    version = str(info.get("valkey_version") or info.get("redis_version"))
    old = tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS
    yield Check(
        "Queue",
        "failed" if old else "ok",
        f"{server} {version} at {where}",
        "Sandlot's scripts need version 7.0 or newer" if old else "",
    )
    configuration = configuration or _told_by_info(info)
    if "maxmemory-policy" not in configuration:
        yield Check(
            "Queue settings",
            "warning",
            "CONFIG is not allowed here",
            "see to it that appendonly is yes and maxmemory-policy is noeviction",
        )
        return
    appendonly = configuration.get("appendonly") == "yes"
    yield Check(
        "Durability",
        "ok" if appendonly else "warning",
        f"append-only file, fsync {configuration.get('appendfsync', 'not told')}"
        if appendonly
        else "no append-only file",
        "" if appendonly else "CONFIG SET appendonly yes: otherwise a restart of the server loses accepted jobs",
    )
    policy = configuration.get("maxmemory-policy")
    fine = policy == "noeviction"
    yield Check(
        "Eviction",
        "ok" if fine else "failed",
        str(policy),
        "" if fine else "CONFIG SET maxmemory-policy noeviction: otherwise jobs vanish when memory is short",
    )
    node_bytes = int(configuration.get("stream-node-max-bytes", 256))  # not told: nothing to complain about
    if node_bytes == 0 or node_bytes > 1024:
        yield Check(
            "Memory per result",
            "warning",
            f"stream-node-max-bytes {node_bytes}",
            "CONFIG SET stream-node-max-bytes 256: a kept result then takes 0.5 instead of 4.4 KiB",
        )


def _sandbox() -> list[Check]:
    """What the worker's doctor found by attacking a real sandbox; it runs in a process of its own, as a worker would."""
    command = installation.command("worker.doctor")
    remedy = f"run it yourself: {' '.join(map(str, command))}"
    try:
        probe = subprocess.run(
            command,
            env=installation.environment({}),
            capture_output=True,
            timeout=_PROBE_DEADLINE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return msgspec.json.decode(probe.stdout, type=list[Check])
    except subprocess.TimeoutExpired:
        return [Check("Sandbox", "failed", f"the probes did not end within {_PROBE_DEADLINE_S:.0f} s", remedy)]
    except msgspec.MsgspecError:
        lines = probe.stderr.decode("utf-8", "replace").strip().splitlines()
        return [
            Check(
                "Sandbox", "failed", lines[-1] if lines else f"the probes ended with status {probe.returncode}", remedy
            )
        ]


def _output_of(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, env={}, cwd=Path("/")
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _show(checks: list[Check]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        table.add_row(_MARKS[check.grade], f"[bold]{escape(check.name)}[/]", escape(check.found))
        if check.remedy:
            table.add_row("", "", f"[yellow]→ {escape(check.remedy)}[/]")
    Console().print(table, highlight=False)
