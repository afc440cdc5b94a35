"""`sandlot doctor`: what this machine has, what it lacks, and what to do about it.

Knows: checks of Python and Node, and how to ask the worker's own doctor about the sandbox. Does not know: how a wall is tested.
"""

from __future__ import annotations

import asyncio
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sandlot.cli import installation
from sandlot.cli.check import Check
from sandlot.cli.output import print_json
from sandlot.cli.redis_check import examine_redis
from sandlot.functions import find_node
from sandlot.settings import Settings, load_settings

OLDEST_NODE: Final = 20
_PROBE_DEADLINE_S: Final = 120.0
_MARKS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[bold red]✗[/]"}
_BROKEN: Final = 4


def examine(as_json: bool) -> int:
    """Make every check and show it; 0, or the exit status of an installation that cannot run functions."""
    settings = load_settings()
    checks = [_python(), _node(settings), *asyncio.run(examine_redis(settings)), *_sandbox()]
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
