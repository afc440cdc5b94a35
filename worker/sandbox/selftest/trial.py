"""One run of a function in a fresh sandbox, with everything seen, for self-tests and for tests."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.sandbox.channel import ERROR, INIT, READY, REQUEST, RESULT, Channel, ChannelFailure, ProtocolError
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.spec import SandboxExit, SandboxSpec

Prewarm = Callable[[str, SandboxSpec | None], Awaitable[Sandbox]]
"""Starts an empty sandbox for a runtime: `SandboxHost.prewarm`."""
LOG_KEPT_BYTES: Final = 65536
END_LIMIT_S: Final = 10.0
CLOSING_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one call, and the end of its sandbox."""

    kind: str
    """`result`, `error`, `not_loaded`, or a value of `ProtocolError` such as `deadline`."""
    answer: Any
    """The decoded result or error; for a `ProtocolError`, its detail."""
    log: str
    exit: SandboxExit
    receipt: dict[str, Any]


async def try_once(
    prewarm: Prewarm,
    runtime: str,
    bundle_dir: Path,
    event: object,
    *,
    handler: str = "",
    spec: SandboxSpec | None = None,
    limit_s: float = 10.0,
) -> Trial:
    """Start a sandbox, call the bundle's function, kill the sandbox, and wait until it is gone.

    Raises:
        SandboxUnavailable: it could not be started; nothing was called.
    """
    sandbox = await prewarm(runtime, spec)
    try:
        await sandbox.attach(bundle_dir)
        return await try_in(sandbox, event, handler=handler, limit_s=limit_s)
    finally:
        sandbox.close()


async def try_in(sandbox: Sandbox, event: object, *, handler: str = "", limit_s: float = 10.0) -> Trial:
    """Call the function in an attached sandbox once, kill the sandbox, and wait for its end."""
    log = bytearray()
    try:
        kind, answer = await _call_function(sandbox, event, handler, limit_s, log)
        if kind == ProtocolError.CLOSED:  # it is ending by itself, and a kill would hide how
            async with asyncio.timeout(CLOSING_LIMIT_S):
                await sandbox.ended()
    except TimeoutError:
        kind, answer = ProtocolError.CLOSED.value, "closed its control descriptor and went on"
    finally:
        sandbox.kill()
        async with asyncio.timeout(END_LIMIT_S):
            end = await sandbox.ended()
        while _read_log(sandbox.log_fd, log):
            continue
        receipt = json.loads(sandbox.receipt)
        sandbox.close()
    return Trial(kind, answer, log.decode("utf-8", "replace"), end, receipt)


async def _call_function(
    sandbox: Sandbox, event: object, handler: str, limit_s: float, log: bytearray
) -> tuple[str, Any]:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()
    broken: asyncio.Future[ChannelFailure] = loop.create_future()
    channel = Channel(sandbox.control, broken.set_result)

    def answered(kind: bytes, body: bytes) -> None:
        outcome.set_result((kind, body))

    loop.add_reader(sandbox.log_fd, _read_log, sandbox.log_fd, log)
    try:
        channel.exchange(INIT, init_body(sandbox, handler), b"", limit_s, answered)
        await asyncio.wait(
            (asyncio.ensure_future(outcome), asyncio.ensure_future(broken)), return_when=asyncio.FIRST_COMPLETED
        )
        if broken.done():
            return broken.result().error.value, broken.result().detail
        if outcome.result()[0] == READY and not json.loads(outcome.result()[1])["ok"]:
            return "not_loaded", json.loads(outcome.result()[1])
        outcome = loop.create_future()
        channel.exchange(REQUEST, *request_bodies(event, limit_s), limit_s, answered)
        await asyncio.wait(
            (asyncio.ensure_future(outcome), asyncio.ensure_future(broken)), return_when=asyncio.FIRST_COMPLETED
        )
        if broken.done():
            return broken.result().error.value, broken.result().detail
        kind, body = outcome.result()
        return {RESULT: "result", ERROR: "error"}[kind], json.loads(body)
    finally:
        channel.close()
        loop.remove_reader(sandbox.log_fd)


def init_body(sandbox: Sandbox, handler: str) -> bytes:
    """Return the body of an `I` frame."""
    return json.dumps(
        {
            "protocol": 1,
            "bundle": sandbox.bundle_path,
            "handler": handler,
            "environment": {},
            "function": "trial",
            "version": "1",
            "memory_limit_mib": sandbox.spec.memory_limit_mib,
            "result_limit_bytes": 1 << 20,
            "isolation": "reuse",
            "alone": sandbox.alone,
        }
    ).encode()


def request_bodies(event: object, limit_s: float) -> tuple[bytes, bytes]:
    """Return the two parts of an `R` frame's body after the ticket: the context, and the event."""
    context = json.dumps(
        {"job_id": "trial", "attempt": 1, "remaining_ms": int(limit_s * 1000), "traceparent": ""}
    ).encode()
    return struct.pack(">I", len(context)) + context, json.dumps(event).encode()


def _read_log(fd: int, kept: bytearray) -> bool:
    """Read once from the log, and keep its beginning; return False if it was empty.

    It is read even when nothing more is kept, because a function that prints must not block.
    """
    try:
        chunk = os.read(fd, LOG_KEPT_BYTES)
    except BlockingIOError:
        return False
    kept += chunk[: LOG_KEPT_BYTES - len(kept)]
    return bool(chunk)
