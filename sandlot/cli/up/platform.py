"""What a worker that died was running, run again at once.

Knows: that whoever saw a process end need not wait for its leases. Does not know: how jobs move (`sandlot.jobs`), who restarts the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError

from sandlot.cli import installation
from sandlot.cli.data_dir import DataDir, Running
from sandlot.cli.up.processes import Child, ChildEnded, Program, start, stop
from sandlot.cli.up.valkey import Valkey
from sandlot.cli.up.watcher import FunctionsFolder, Say
from sandlot.client import Client
from sandlot.errors import ApiUnreachable, OperatorError, PortTaken, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.redis.connection import cancellable, connect, shown_url
from sandlot.settings import Settings, read_secret_file


async def run_again(redis_url: str, signing_key: str, pid: int) -> int:
    """Queue again what this process of ours was running; how many jobs. It must be dead: a living one's jobs would run twice.

    Nothing if Redis does not answer: then the other workers, or the next one, find the jobs when their leases run out.
    """
    with contextlib.suppress(QueueUnavailable):
        queue = await Queue.open(redis_url, signing_key.encode(), queue_limit=1, queue_limit_per_function=1)
        try:
            return await queue.worker_died(socket.gethostname(), pid)
        finally:
            await queue.close()
    return 0


START_DEADLINE_S: Final = 60.0
STOP_GRACE_S: Final = 10.0
"""For what runs to finish and be recorded; jobs that take longer go back to the queue."""
_VALKEY_GRACE_S: Final = 10.0
_RESTARTS: Final = 5
_RESTARTS_WITHIN_S: Final = 60.0
_RESTART_PAUSE_S: Final = 0.5
_LOG_FRAME: Final = frozenset({"time", "level", "logger", "event", "exception"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. `redis_url` empty: an embedded Valkey."""

    data: DataDir
    functions: Path
    host: str
    port: int
    workers: int
    redis_url: str
    verbose: bool
    settings: Settings

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - said, not bound
        return f"http://{host}:{self.port}"


@dataclass(slots=True)
class Embedded:
    """A Valkey of ours, and its process of the moment."""

    valkey: Valkey
    child: Child

    async def start_again(self) -> None:
        """On the data that the dead one has written.

        Raises:
            ChildEnded, InvalidSettings: it does not start, or does not get ready.
        """
        self.child = await start(self.valkey.program)
        await cancellable(self.valkey.ready(self.child))


@dataclass(slots=True)
class Platform:
    """What runs, for as long as the context that made it is open."""

    plan: Plan
    redis_url: str
    embedded: Embedded | None
    """The Valkey that was started for it; none if there is a Redis of one's own."""
    client: Client
    workers: dict[str, int]
    sandbox: str
    """The level of the walls, as the last worker that started reported it; empty if that went to the terminal."""
    folder: FunctionsFolder
    watching: asyncio.Task[None]
    children: list[Child] = field(default_factory=list)


class LogTail:
    """What API and workers log, as far as the person at the terminal should know of it."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.sandbox = ""

    def heard(self, name: str, line: Mapping[str, Any]) -> None:
        """One log line of a child, as `sandlot.log_format.JsonLines` wrote it."""
        if line.get("logger") == "worker" and line.get("event") == "sandbox":
            self.sandbox = str(line.get("level_", ""))
        if line.get("level") in ("warning", "error", "critical"):
            fields = " ".join(f"{key}={value}" for key, value in line.items() if key not in _LOG_FRAME)
            self._say("bad" if line["level"] != "warning" else "note", f"{name}: {line.get('event')} {fields}".rstrip())


def free_port(host: str, port: int) -> int:
    """The port itself, or, for 0, one that is free.

    Raises:
        PortTaken: somebody listens there, or it may not be had.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another port: sandlot up --port {port + 1}"
        ) from error


@contextlib.asynccontextmanager
async def everything(plan: Plan, say: Say, hurry: asyncio.Event) -> AsyncIterator[Platform]:
    """Start all of it; when the block ends, or anything fails on the way, end all of it.

    Raises:
        OperatorError: something cannot be started; the message says what and why.
        QueueUnavailable: the Redis that was asked for does not answer.
    """
    key = read_secret_file(plan.data.key_file, "API key", "SANDLOT_KEY")
    async with contextlib.AsyncExitStack() as stack:
        embedded = None if plan.redis_url else await stack.enter_async_context(_embedded_valkey(plan))
        redis_url = embedded.valkey.url if embedded is not None else plan.redis_url
        if plan.redis_url:
            await cancellable(_reach(plan.redis_url))
        client = stack.enter_context(Client(plan.url, key))
        news = LogTail(say)
        children: list[Child] = []
        stack.push_async_callback(_stop_all, children, hurry)
        for program in _programs(plan, redis_url, news):
            children.append(await start(program))  # noqa: PERF401 - a stop in between finds those that were started
        workers = await _ready(client, children)
        stack.enter_context(plan.data.announced(Running(pid=os.getpid(), url=plan.url, redis_url=redis_url)))
        folder = FunctionsFolder(plan.functions, client, None, say)
        watching = asyncio.create_task(folder.watch(), name="watch functions")
        stack.push_async_callback(_cancel, watching)
        await _first(asyncio.create_task(folder.deployed_once.wait()), watching)
        yield Platform(plan, redis_url, embedded, client, workers, news.sandbox, folder, watching, children)


async def look_after(running: Platform, say: Say) -> None:
    """Start what ends again, for ever.

    Raises:
        ChildEnded: it keeps ending.
        OSError: the functions folder can no longer be watched.
    """
    ends: list[float] = []

    def excuse(error: ChildEnded) -> None:
        ends[:] = [*(moment for moment in ends if time.monotonic() - moment < _RESTARTS_WITHIN_S), time.monotonic()]
        if len(ends) > _RESTARTS:
            raise error
        say("bad", f"{error}; starting it again")

    while True:
        embedded = running.embedded
        ended = [child.ended for child in running.children] + ([embedded.child.ended] if embedded else [])
        await asyncio.wait([running.watching, *ended], return_when=asyncio.FIRST_COMPLETED)
        if running.watching.done():
            running.watching.result()
        if embedded is not None and embedded.child.ended.done():
            try:
                embedded.child.check()
            except ChildEnded as error:
                excuse(error)
                # At once: everybody waits for it, and it has nothing to wait for.
                await embedded.start_again()
        for index, child in enumerate(running.children):
            try:
                child.check()
            except ChildEnded as error:
                excuse(error)
                await _save_jobs(running, child, say)
                await asyncio.sleep(_RESTART_PAUSE_S)
                running.children[index] = await start(child.program)


async def _save_jobs(running: Platform, child: Child, say: Say) -> None:
    """A worker's death is known here before anybody else can notice its silence."""
    signing_key = read_secret_file(running.plan.data.signing_key_file, "signing key", "SANDLOT_SIGNING_KEY")
    jobs = await cancellable(run_again(running.redis_url, signing_key, child.process.pid))
    if jobs:
        say("note", f"{jobs} job{'s' if jobs > 1 else ''} of {child.program.name} will run again")


@contextlib.asynccontextmanager
async def _embedded_valkey(plan: Plan) -> AsyncIterator[Embedded]:
    log = _fresh_log(plan.data.logs / "valkey.log")
    valkey = Valkey(plan.data.valkey, log, plan.settings.durability)
    try:
        embedded = Embedded(valkey, await start(valkey.program))
        try:
            await cancellable(valkey.ready(embedded.child))
            yield embedded
        finally:
            # Whatever the hurry: Valkey has nothing to wait for, and ends in milliseconds.
            await stop([embedded.child], _VALKEY_GRACE_S, asyncio.Event())
    finally:
        valkey.tidy()


def _programs(plan: Plan, redis_url: str, news: LogTail) -> Sequence[Program]:
    environment = installation.environment(
        {
            "SANDLOT_REDIS_URL": redis_url,
            "SANDLOT_DATA": str(plan.data.path),
            "SANDLOT_HOST": plan.host,
            "SANDLOT_PORT": str(plan.port),
            "SANDLOT_API_PROCESSES": str(plan.settings.api_processes),
            "SANDLOT_INSECURE": str(plan.settings.insecure),
            "SANDLOT_INSECURE_REDIS": str(plan.settings.insecure_redis),
            "SANDLOT_SLOTS": str(plan.settings.slots),
            "SANDLOT_KEY_FILE": str(plan.data.key_file),
            "SANDLOT_SIGNING_KEY_FILE": str(plan.data.signing_key_file),
            **({} if plan.verbose else {"SANDLOT_LOG_FORMAT": "json"}),
            "SANDLOT_DRAIN_S": os.environ.get("SANDLOT_DRAIN_S", str(STOP_GRACE_S - 2)),
            "SANDLOT_SHUTDOWN_GRACE_S": os.environ.get("SANDLOT_SHUTDOWN_GRACE_S", str(STOP_GRACE_S - 2)),
        }
    )
    parts: list[tuple[str, installation.Program]] = [("api", "api")]
    parts += [(f"worker-{number}", "worker") for number in range(1, plan.workers + 1)]
    return [
        Program(
            "the API" if name == "api" else name,
            installation.command(program),
            environment,
            None if plan.verbose else _fresh_log(plan.data.logs / f"{name}.log"),
            news.heard,
        )
        for name, program in parts
    ]


def _fresh_log(log: Path) -> Path:
    """An empty log for this run, the one of the run before beside it."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    log.touch(mode=0o600)
    return log


async def _reach(redis_url: str) -> None:
    client = connect(redis_url)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise QueueUnavailable(
            f"cannot use the Redis that SANDLOT_REDIS_URL names ({shown_url(redis_url)}): {error}"
        ) from error
    finally:
        await client.aclose()


async def _ready(client: Client, children: Sequence[Child]) -> dict[str, int]:
    """Wait until the API answers and a worker has reported; the live workers by what they can run.

    Raises:
        ChildEnded: one of them ended instead.
        OperatorError: they are still not ready after a minute.
    """
    said = "nothing"
    deadline_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline_s:
        for child in children:
            child.check()
        try:
            health = await asyncio.to_thread(client.health)
        except ApiUnreachable as error:
            health = {"detail": str(error)}
        if health.get("status") == "ready":
            return dict(health["workers"])
        said = str(health.get("detail", health))
        await asyncio.sleep(0.05)
    logs = children[0].program.log
    raise OperatorError(
        f"not ready after {START_DEADLINE_S:.0f} s; the last word was: {said}"
        + (f" See {logs.parent}." if logs else "")
    )


async def _first(one: asyncio.Task[Any], other: asyncio.Task[Any]) -> None:
    """Wait for either; raise what the one that ended first raised."""
    done, _ = await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
    one.cancel()
    for task in done:
        task.result()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _stop_all(children: Sequence[Child], hurry: asyncio.Event) -> None:
    await stop(children, STOP_GRACE_S, hurry)


def stop_signals(stopping: asyncio.Event, hurry: asyncio.Event) -> None:
    """The first SIGINT or SIGTERM asks for an orderly stop, the second for a quick one."""

    def asked() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked)
