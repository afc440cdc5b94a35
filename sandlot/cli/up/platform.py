"""A whole platform on this machine: Valkey, API and workers, from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError

from sandlot.cli import installation
from sandlot.cli.data_dir import DataDir, RunningPlatform
from sandlot.cli.up.processes import ChildEnded, ChildProcess, Program, start, stop
from sandlot.cli.up.screen import Report
from sandlot.cli.up.valkey import Valkey
from sandlot.cli.up.watcher import FunctionsFolder
from sandlot.client import Client
from sandlot.errors import ApiUnreachable, OperatorError, PortTaken, QueueUnavailable
from sandlot.jobs import Queue
from sandlot.redis.connection import cancellable, connect, shown_url
from sandlot.settings import Settings, read_secret_file

START_DEADLINE_S: Final = 60.0
STOP_GRACE_S: Final = 10.0
"""Time for running jobs to finish and be recorded at a stop; jobs that take longer go back to the
queue."""
_VALKEY_GRACE_S: Final = 10.0
_RESTARTS_LIMIT: Final = 5
_RESTARTS_WINDOW_S: Final = 60.0
_RESTART_PAUSE_S: Final = 0.5
_LOG_FRAME: Final = frozenset({"time", "level", "logger", "event", "exception"})


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """Settings of a platform to start. An empty `redis_url` means an embedded Valkey."""

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
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - shown, not bound
        return f"http://{host}:{self.port}"


@dataclass(slots=True)
class EmbeddedValkey:
    """A Valkey of ours and its current process."""

    valkey: Valkey
    child: ChildProcess

    async def restart(self) -> None:
        """Start a new process on the dead one's data, and wait until it is ready.

        Raises:
            ChildEnded, InvalidSettings: it does not start, or does not become ready.
        """
        self.child = await start(self.valkey.program)
        await cancellable(self.valkey.wait_until_ready(self.child))


@dataclass(slots=True)
class Platform:
    """The running parts, valid while the context of `start_platform` is open."""

    config: PlatformConfig
    redis_url: str
    embedded: EmbeddedValkey | None
    """None if the user's own Redis is used."""
    client: Client
    workers: dict[str, int]
    """The number of live workers by placement, as the API counted them at the start."""
    sandbox: str
    """The isolation level that the last worker logged at its start; empty if its log goes to the
    terminal."""
    folder: FunctionsFolder
    watching: asyncio.Task[None]
    children: list[ChildProcess] = field(default_factory=list)


class LogTail:
    """Reads the log lines of the API and the workers, and reports those that concern the user."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.sandbox = ""

    def on_log_line(self, name: str, line: Mapping[str, Any]) -> None:
        """Process one log line of a child, as `sandlot.log_format.JsonLines` writes it."""
        if line.get("logger") == "worker" and line.get("event") == "sandbox":
            self.sandbox = str(line.get("level_", ""))
        if line.get("level") in ("warning", "error", "critical"):
            fields = " ".join(f"{key}={value}" for key, value in line.items() if key not in _LOG_FRAME)
            mark = "bad" if line["level"] != "warning" else "note"
            self._report(mark, f"{name}: {line.get('event')} {fields}".rstrip())


async def run_until_stopped(config: PlatformConfig, report: Report, on_start: Callable[[Platform], None]) -> None:
    """Run a platform until SIGINT, SIGTERM or SIGHUP, then stop it.

    A second signal stops it at once.

    Raises:
        OperatorError, QueueUnavailable: it cannot be started, or keeps failing; nothing is left
            running.
    """
    stopping, stop_now = asyncio.Event(), asyncio.Event()
    on_stop_signals(stopping, stop_now)
    running = asyncio.create_task(_run_platform(config, report, on_start, stop_now))
    stop_requested = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
    stop_requested.cancel()
    if not running.done():
        report("note", "stopping (press Ctrl+C again to stop at once)")
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    report("ok", "stopped; jobs and functions are kept")


def on_stop_signals(stopping: asyncio.Event, stop_now: asyncio.Event) -> None:
    """Set `stopping` at the first SIGINT, SIGTERM or SIGHUP, and `stop_now` at the next."""

    def request_stop() -> None:
        (stop_now if stopping.is_set() else stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, request_stop)


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        PortTaken: the port is in use, or may not be bound.
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
async def start_platform(config: PlatformConfig, report: Report, stop_now: asyncio.Event) -> AsyncIterator[Platform]:
    """Start every part and deploy the functions; at the end of the context, stop every part.

    A failure on the way stops them too.

    Raises:
        OperatorError: a part cannot be started; the message says which and why.
        QueueUnavailable: the user's own Redis does not answer.
    """
    key = read_secret_file(config.data.key_file, "API key", "SANDLOT_KEY")
    async with contextlib.AsyncExitStack() as stack:
        embedded = None if config.redis_url else await stack.enter_async_context(_start_valkey(config))
        redis_url = embedded.valkey.url if embedded is not None else config.redis_url
        if config.redis_url:
            await cancellable(_ping_redis(config.redis_url))
        client = stack.enter_context(Client(config.url, key))
        log_tail = LogTail(report)
        children: list[ChildProcess] = []
        stack.push_async_callback(_stop_children, children, stop_now)
        for program in _programs(config, redis_url, log_tail):
            children.append(await start(program))  # noqa: PERF401 - a stop in between finds those that were started
        workers = await _wait_until_ready(client, children)
        running = RunningPlatform(pid=os.getpid(), url=config.url, redis_url=redis_url)
        stack.enter_context(config.data.announced(running))
        folder = FunctionsFolder(config.functions, client, None, report)
        watching = asyncio.create_task(folder.watch(), name="watch functions")
        stack.push_async_callback(_cancel, watching)
        await _wait_for_first(asyncio.create_task(folder.first_deploy_done.wait()), watching)
        yield Platform(config, redis_url, embedded, client, workers, log_tail.sandbox, folder, watching, children)


async def supervise(platform: Platform, report: Report) -> None:
    """Restart every process that ends, until cancelled.

    Raises:
        ChildEnded: processes ended more than five times within a minute.
        OSError: the functions folder can no longer be watched.
    """
    ends_s: list[float] = []

    def count_restart(error: ChildEnded) -> None:
        now_s = time.monotonic()
        ends_s[:] = [*(end_s for end_s in ends_s if now_s - end_s < _RESTARTS_WINDOW_S), now_s]
        if len(ends_s) > _RESTARTS_LIMIT:
            raise error
        report("bad", f"{error}; restarting it")

    while True:
        embedded = platform.embedded
        ended = [child.ended for child in platform.children] + ([embedded.child.ended] if embedded else [])
        await asyncio.wait([platform.watching, *ended], return_when=asyncio.FIRST_COMPLETED)
        if platform.watching.done():
            platform.watching.result()
        if embedded is not None and embedded.child.ended.done():
            try:
                embedded.child.check()
            except ChildEnded as error:
                count_restart(error)
                # Without the pause below: every other process waits for Valkey, and it waits for
                # none.
                await embedded.restart()
        for index, child in enumerate(platform.children):
            try:
                child.check()
            except ChildEnded as error:
                count_restart(error)
                await _requeue_and_report(platform, child, report)
                await asyncio.sleep(_RESTART_PAUSE_S)
                platform.children[index] = await start(child.program)


async def requeue_jobs(redis_url: str, signing_key: str, pid: int) -> int:
    """Queue again the jobs that a dead worker process of this machine was running; return how many.

    Its jobs would otherwise wait until their leases expire. The process must be dead: the jobs of a
    live one would run twice. If Redis does not answer, nothing is queued and 0 is returned; the
    leases then expire as usual.
    """
    with contextlib.suppress(QueueUnavailable):
        queue = await Queue.open(redis_url, signing_key.encode(), queue_limit=1, queue_limit_per_function=1)
        try:
            return await queue.worker_died(socket.gethostname(), pid)
        finally:
            await queue.close()
    return 0


async def _run_platform(
    config: PlatformConfig, report: Report, on_start: Callable[[Platform], None], stop_now: asyncio.Event
) -> None:
    async with start_platform(config, report, stop_now) as platform:
        on_start(platform)
        await supervise(platform, report)


async def _requeue_and_report(platform: Platform, child: ChildProcess, report: Report) -> None:
    signing_key = read_secret_file(platform.config.data.signing_key_file, "signing key", "SANDLOT_SIGNING_KEY")
    jobs = await cancellable(requeue_jobs(platform.redis_url, signing_key, child.process.pid))
    if jobs:
        report("note", f"{jobs} job{'s' if jobs > 1 else ''} of {child.program.name} will run again")


@contextlib.asynccontextmanager
async def _start_valkey(config: PlatformConfig) -> AsyncIterator[EmbeddedValkey]:
    log = _rotate_log(config.data.logs / "valkey.log")
    valkey = Valkey(config.data.valkey, log, config.settings.durability)
    try:
        embedded = EmbeddedValkey(valkey, await start(valkey.program))
        try:
            await cancellable(valkey.wait_until_ready(embedded.child))
            yield embedded
        finally:
            # Also gets its grace when the user is in a hurry: it ends within milliseconds.
            await stop([embedded.child], _VALKEY_GRACE_S, asyncio.Event())
    finally:
        valkey.remove_socket_folder()


def _programs(config: PlatformConfig, redis_url: str, log_tail: LogTail) -> Sequence[Program]:
    environment = installation.environment(
        {
            "SANDLOT_REDIS_URL": redis_url,
            "SANDLOT_DATA": str(config.data.path),
            "SANDLOT_HOST": config.host,
            "SANDLOT_PORT": str(config.port),
            "SANDLOT_API_PROCESSES": str(config.settings.api_processes),
            "SANDLOT_INSECURE": str(config.settings.insecure),
            "SANDLOT_INSECURE_REDIS": str(config.settings.insecure_redis),
            "SANDLOT_SLOTS": str(config.settings.slots),
            "SANDLOT_KEY_FILE": str(config.data.key_file),
            "SANDLOT_SIGNING_KEY_FILE": str(config.data.signing_key_file),
            **({} if config.verbose else {"SANDLOT_LOG_FORMAT": "json"}),
            "SANDLOT_DRAIN_S": os.environ.get("SANDLOT_DRAIN_S", str(STOP_GRACE_S - 2)),
            "SANDLOT_SHUTDOWN_GRACE_S": os.environ.get("SANDLOT_SHUTDOWN_GRACE_S", str(STOP_GRACE_S - 2)),
        }
    )
    parts: list[tuple[str, installation.ServerModule]] = [("api", "api")]
    parts += [(f"worker-{number}", "worker") for number in range(1, config.workers + 1)]
    return [
        Program(
            "the API" if name == "api" else name,
            installation.command(module),
            environment,
            None if config.verbose else _rotate_log(config.data.logs / f"{name}.log"),
            log_tail.on_log_line,
        )
        for name, module in parts
    ]


def _rotate_log(log: Path) -> Path:
    """Create an empty log for this run; the previous run's log is kept beside it."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    log.touch(mode=0o600)
    return log


async def _ping_redis(redis_url: str) -> None:
    client = connect(redis_url)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise QueueUnavailable(
            f"cannot use the Redis that SANDLOT_REDIS_URL names ({shown_url(redis_url)}): {error}"
        ) from error
    finally:
        await client.aclose()


async def _wait_until_ready(client: Client, children: Sequence[ChildProcess]) -> dict[str, int]:
    """Wait until the API answers and a worker has registered.

    Returns the number of live workers by placement.

    Raises:
        ChildEnded: a child ended.
        OperatorError: they are not ready after a minute.
    """
    answer = "nothing"
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
        answer = str(health.get("detail", health))
        await asyncio.sleep(0.05)
    logs = children[0].program.log
    raise OperatorError(
        f"not ready after {START_DEADLINE_S:.0f} s; the last answer was: {answer}"
        + (f" See {logs.parent}." if logs else "")
    )


async def _wait_for_first(one: asyncio.Task[Any], other: asyncio.Task[Any]) -> None:
    """Wait until either task ends and raise what it raised; cancel `one`."""
    done, _ = await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
    one.cancel()
    for task in done:
        task.result()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _stop_children(children: Sequence[ChildProcess], stop_now: asyncio.Event) -> None:
    await stop(children, STOP_GRACE_S, stop_now)
