"""`python -m worker`: the composition root of one worker process.

The exit status is 0 after a drain. It is 2, with one line on stderr, if the worker cannot start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import redis
import uvloop
from redis.asyncio import Redis

from sandlot.callback_policy import callback_hosts, callback_secrets
from sandlot.errors import OperatorError, QueueUnavailable
from sandlot.failpoints import Failpoints
from sandlot.functions import Registry, find_node
from sandlot.functions.builds import BuildQueue
from sandlot.gc_tuning import tune_gc
from sandlot.jobs import Queue
from sandlot.jobs.worker_queue import WorkerQueue
from sandlot.log_format import configure_logging
from sandlot.metrics import Family
from sandlot.offload import shorten_switch_interval
from sandlot.placement import placements
from sandlot.redis.connection import connect, connect_blocking
from sandlot.redis.invalidation import Invalidation
from sandlot.redis.keys import SECRETS_CHANGED
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings, cpu_count, load_settings, parse_slots
from sandlot.tracing import open_tracing
from sandlot.transport_security import require_safe_redis
from worker.builder.builder import Builder
from worker.builder.indexes import read_indexes
from worker.builder.package_trees import PackageTrees
from worker.bundle_cache import BundleCache
from worker.callbacks.delivery import WebhookClient
from worker.callbacks.sender import Sender
from worker.disk_cache import DiskCache
from worker.engine import Engine
from worker.engine.capacity import Scaling
from worker.engine.engine import worker_name
from worker.metrics.counts import WorkerCounts
from worker.middleware import Middleware, MiddlewarePool
from worker.middleware.failpoints import FailpointMiddleware, open_failing_queue
from worker.middleware.redaction import RedactionMiddleware
from worker.middleware.tracing import TracingMiddleware
from worker.pool import Pool
from worker.pool.memory import available_memory_mib
from worker.pool.pool import MEMORY_RESERVE_MIB
from worker.sandbox.host import SandboxHost
from worker.sandbox.spec import RuntimeCommand, find_node_runtime, find_python_runtime
from worker.scheduler import Scheduler

_log = logging.getLogger("worker")

SLOTS_PER_CPU: Final = 4
"""Default slots per CPU. With 2, 4 and 8, a call took 255, 254 and 292 µs of CPU at 64 clients.

Functions that wait benefit from more slots, functions that compute from one: four of them at once
take four times as long each, which time limits of seconds for milliseconds of work still allow.
"""
SLOTS_MINIMUM: Final = 4
"""With these, even a single CPU serves a function that waits for another function."""


def main() -> int:
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        raise_descriptor_limit()
        shorten_switch_interval()
        uvloop.run(serve(settings))
    except (OperatorError, QueueUnavailable) as error:
        print(f"sandlot worker: {error.message}", file=sys.stderr)
        return 2
    except redis.RedisError as error:
        print(f"sandlot worker: Redis does not answer: {error}", file=sys.stderr)
        return 2
    return 0


async def serve(settings: Settings) -> None:
    """Run the worker until a signal stops it.

    Raises:
        OperatorError, QueueUnavailable: the worker cannot start.
    """
    url, signing_key = require_safe_redis(settings), settings.read_signing_key()
    if not url:
        raise OperatorError(
            "SANDLOT_REDIS_URL is not set; set it to the address of Redis or Valkey, for example redis://127.0.0.1:6379/0"
        )
    indexes = read_indexes(settings, find_node(settings.node))
    points = Failpoints.parse(settings.failpoints)
    tags = settings.read_tags()
    async with AsyncExitStack() as stack:
        # Redis before the sandboxes, so that the most likely fault is reported first.
        probe = await WorkerQueue.open(url, signing_key, worker_name(), ())
        stack.push_async_callback(probe.close)
        host = await SandboxHost.open(
            level=settings.sandbox, runtimes=runtime_commands(settings), state_dir=settings.data / "sandboxes"
        )
        stack.push_async_callback(host.close)
        served = placements(host.runtimes, tags)
        queue = await _open_queue(points, url, signing_key, probe.name, served)
        stack.push_async_callback(queue.close)
        client = connect(url)
        stack.push_async_callback(client.aclose)
        registry = await stack.enter_async_context(Registry(client, signing_key))
        cache = DiskCache(settings.data / "cache", settings.cache_limit_mib)
        trees = PackageTrees(
            host,
            indexes,
            cache,
            limit_mib=settings.packages_limit_mib,
            resolve_limit_s=settings.resolve_limit_s,
            install_limit_s=settings.build_limit_s,
        )
        stack.push_async_callback(trees.close)
        bundles = BundleCache(registry, SecretStore(client, signing_key), cache, trees.tree)
        await bundles.open()
        stack.push_async_callback(bundles.close)
        least, most = slots(settings)
        pool = Pool(host, bundles.spec, least)
        await pool.open()
        bundles.report_use(lambda: pool.digests)
        changes = Invalidation(client, SECRETS_CHANGED, pool.mark_stale)
        changes.start()
        stack.push_async_callback(changes.stop)
        stack.push_async_callback(pool.close)
        builder = Builder(client, BuildQueue(client, signing_key), trees, served)
        builder.open()
        stack.push_async_callback(builder.close)
        scheduler = Scheduler(
            client, signing_key, lambda: _open_calling_queue(settings, url), result_ttl_s=settings.result_ttl_s
        )
        scheduler.open()
        stack.push_async_callback(scheduler.close)
        counts = WorkerCounts(settings.metrics_functions)
        if callback_hosts(settings).entries:
            await _open_sender(settings, client, signing_key, counts, stack)
        connection = await asyncio.to_thread(connect_blocking, url)
        stack.callback(connection.close)
        tracing = open_tracing(settings, "worker")
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        middlewares: list[Middleware] = [] if points is None else [FailpointMiddleware(points)]
        middlewares += [] if tracing is None else [TracingMiddleware(tracing)]
        executor = MiddlewarePool(pool, [*middlewares, RedactionMiddleware(bundles.revealed)])
        scaling = Scaling(least, most, lambda: available_memory_mib() > MEMORY_RESERVE_MIB) if least < most else None
        engine = Engine(connection, queue, executor, counts, drain_s=settings.drain_s, scaling=scaling)
        if settings.metrics_port is not None:
            await stack.enter_async_context(
                _serve_metrics(settings, lambda: counts.families(pool, engine.slots, queue.round_trips))
            )
        tune_gc()
        _log.info(
            "sandbox", extra={"level": host.level, "runtimes": ",".join(sorted(host.runtimes)), "slots": pool.slots}
        )
        await engine.run()
    # The worker has stopped properly. Another signal must not turn that into a failure while the
    # interpreter exits.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


async def _open_sender(
    settings: Settings, client: Redis, signing_key: bytes, counts: WorkerCounts, stack: AsyncExitStack
) -> None:
    """Start the callback sender and close it with the stack.

    Raises:
        InvalidSettings: the secret that signs callbacks is missing or malformed.
    """
    secrets = callback_secrets(settings)
    webhooks = await stack.enter_async_context(WebhookClient())
    sender = Sender(client, signing_key, callback_hosts(settings), secrets, webhooks, counts.callback_tries)
    sender.open()
    stack.push_async_callback(sender.close)


async def _open_calling_queue(settings: Settings, url: str) -> Queue:
    """Open the queue's calling side, with which the scheduler submits jobs."""
    return await Queue.open(
        url,
        settings.read_signing_key(),
        queue_limit=settings.queue_limit,
        queue_limit_per_function=settings.queue_limit_per_function,
    )


def _serve_metrics(settings: Settings, families: Callable[[], Sequence[Family]]) -> AbstractAsyncContextManager[None]:
    # Imported here, because a worker without a metrics port needs no HTTP server.
    from worker.metrics.listener import open_listener

    assert settings.metrics_port is not None  # noqa: S101 - the caller has checked
    return open_listener(settings.metrics_host, settings.metrics_port, settings.read_metrics_token(), families)


async def _open_queue(
    points: Failpoints | None, url: str, signing_key: bytes, name: str, placements: Sequence[str]
) -> WorkerQueue:
    if points is None:
        return await WorkerQueue.open(url, signing_key, name, placements)
    return await open_failing_queue(points, url, signing_key, name, placements)


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to the hard limit.

    A sandbox takes six descriptors of the worker, and the usual soft limit of a shell is 1024.
    Sandboxes have limits of their own.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def slots(settings: Settings) -> tuple[int, int]:
    """Return the fewest and the most slots that this worker may have."""
    least, most = parse_slots(settings.slots)
    usual = max(SLOTS_MINIMUM, SLOTS_PER_CPU * cpu_count())
    return least or usual, most or usual


def runtime_commands(settings: Settings) -> list[RuntimeCommand]:
    """Return the commands of this machine's runtimes: Python always, Node if it is installed."""
    folder = Path(__file__).resolve().parent.parent / "runtimes"
    commands = [find_python_runtime(folder / "python")]
    node = find_node(settings.node)
    if node is not None:
        flags = tuple(json.loads((folder / "node" / "flags.json").read_text()))
        commands.append(find_node_runtime(folder / "node", node, flags))
    return commands


if __name__ == "__main__":
    sys.exit(main())
