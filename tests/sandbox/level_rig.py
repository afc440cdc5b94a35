"""A host of one level, bundles written on the spot, and functions that never answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.sandbox.runtime_process import RUNTIMES, find_node, node_flags
from tests.waiting import HANG_S
from worker.sandbox.channel import INIT, REQUEST, Channel
from worker.sandbox.host import SandboxHost
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.selftest.trial import init_body, request_bodies
from worker.sandbox.spec import Level, RuntimeCommand, find_node_runtime, find_python_runtime

PATIENCE_S = HANG_S
KILL_LIMIT_S = 5.0


def runtime_commands(*, node: bool = False) -> list[RuntimeCommand]:
    commands = [find_python_runtime(RUNTIMES / "python")]
    return (
        [*commands, find_node_runtime(RUNTIMES / "node", Path(find_node()), tuple(node_flags()))] if node else commands
    )


@contextlib.asynccontextmanager
async def open_level(level: Level, *, node: bool = False, missing: tuple[str, ...] = ()) -> AsyncIterator[SandboxHost]:
    with tempfile.TemporaryDirectory(prefix="sandlot-level-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - the sandbox's user is another one
        async with await SandboxHost.open(
            level=level, runtimes=runtime_commands(node=node), state_dir=Path(folder), missing=missing
        ) as host:
            yield host


def bundle(folder: Path, source: str, name: str = "main.py") -> Path:
    """A folder with one file, readable for every uid on the way."""
    made = Path(tempfile.mkdtemp(dir=folder))
    made.chmod(0o755)
    (made / name).write_text(source)
    return made


async def call_forever(sandbox: Sandbox, event: object, *, until: Callable[[], bool]) -> None:
    """Call the function, do not wait for an answer, but for the condition."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    channel = Channel(sandbox.control, lambda faulty: ready.done() or ready.set_exception(RuntimeError(str(faulty))))
    channel.exchange(INIT, init_body(sandbox, ""), b"", PATIENCE_S, lambda _kind, _body: ready.set_result(None))
    await ready
    channel.exchange(REQUEST, *request_bodies(event, PATIENCE_S), PATIENCE_S, lambda _kind, _body: None)
    async with asyncio.timeout(PATIENCE_S):
        while not until():  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(0.002)
    channel.close()


def processes_of(sandbox: Sandbox) -> list[int]:
    """Every process of the sandbox, as numbered outside: its first one and all descendants, whoever adopted them."""
    parents: dict[int, list[int]] = {}
    groups: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
            groups.setdefault(int(fields[2]), []).append(int(name))
    found, waiting = set(groups.get(sandbox.pid, ())), [sandbox.pid]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += parents.get(pid, [])
    return sorted(found)
