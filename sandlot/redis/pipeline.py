"""A pipelined client for Redis: RESP2 through hiredis, coalesced writes, reconnection.

`RespConnection` is one socket with a parser, `RedisPipeline` the client that matches replies with
calls and reconnects. The protocol is that of redis.io, "RESP protocol specification".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import hiredis

from sandlot.errors import QueueUnavailable
from sandlot.metrics import Histogram
from sandlot.redis.connection import CALL_TIMEOUT_S, Address, open_transport, parse_address
from sandlot.redis.lua import Script

log = logging.getLogger(__name__)

Argument = bytes | str | int | float
"""A part of a command: bytes are sent as they are, everything else as text."""
Reply = object
"""A reply as hiredis parses it: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""

BACKOFFS_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Between attempts to reconnect: short for a restart, a second at most."""

LARGE_BYTES: Final = 65_536
"""A larger argument is sent without a copy: hiredis takes 15 ms to copy 8 MB into one command, and
blocks the event loop meanwhile."""


class RespConnection(asyncio.Protocol):
    """A socket with a RESP parser. All writes of one event-loop tick leave in one send."""

    def __init__(self, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self.parser_grown = False
        """Set after a large reply: the parser keeps the memory that it needed until it is fed
        again, which may be a second later."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        reader, on_reply = self._reader, self._on_reply
        if len(data) > LARGE_BYTES:
            self.parser_grown = True
        reader.feed(data)
        try:
            reply = reader.gets()
            while reply is not False:
                on_reply(reply)
                reply = reader.gets()
        except hiredis.ProtocolError:
            # The peer does not speak RESP: nothing it sends can be used.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def replace_parser(self) -> None:
        """Replace the parser to free its memory. Call it only when no part of another reply has
        arrived: that part would be lost."""
        self._reader, self.parser_grown = hiredis.Reader(), False

    def send(self, *arguments: Argument) -> None:
        """Queue one command for the write at the end of this tick. A closed connection drops it:
        its owner learns of that by `on_lost`."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pack(arguments)

    def send_now(self, *arguments: Argument) -> None:
        """Send at once, for a caller that has gathered everything of this tick already: waiting for
        the end of the tick costs another turn of the event loop, which is another system call."""
        self._pack(arguments)
        self._flush()

    def _pack(self, arguments: tuple[Argument, ...]) -> None:
        for argument in arguments:
            if type(argument) is bytes and len(argument) > LARGE_BYTES:
                self._pending.extend(_pack_in_parts(arguments))
                return
        self._pending.append(hiredis.pack_command(arguments))  # type: ignore[arg-type]  # its stub means a tuple of any length

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and self._transport is not None:
            if len(pending) == 1:
                self._transport.write(pending[0])
            elif max(map(len, pending)) > LARGE_BYTES:
                self._transport.writelines(pending)
            else:
                self._transport.write(b"".join(pending))

    def close(self) -> None:
        """Abort the connection; `on_lost` follows."""
        if self._transport is not None:
            self._transport.abort()


def _pack_in_parts(arguments: tuple[Argument, ...]) -> list[bytes]:
    """Encode one command in RESP2 without copying its large arguments."""
    parts, small = [], b"*%d\r\n" % len(arguments)
    for argument in arguments:
        text = argument if isinstance(argument, bytes) else str(argument).encode()
        small += b"$%d\r\n" % len(text)
        if len(text) > LARGE_BYTES:
            parts += [small, text]
            small = b"\r\n"
        else:
            small += text + b"\r\n"
    return [*parts, small]


def handshake(address: Address) -> list[tuple[Argument, ...]]:
    """Return the commands that open a connection; Redis answers each with `OK`."""
    commands: list[tuple[Argument, ...]] = []
    if address.password:
        commands.append(
            ("AUTH", address.username, address.password) if address.username else ("AUTH", address.password)
        )
    if address.db:
        commands.append(("SELECT", address.db))
    return commands


async def open_resp_connection(
    address: Address, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]
) -> RespConnection:
    """Open a connection.

    Raises:
        OSError, TimeoutError: the server cannot be reached.
    """
    connection = RespConnection(on_reply, on_lost)
    await open_transport(address, connection)
    return connection


CHECK_INTERVAL_S: Final = 0.25
"""Between two checks of the oldest call's deadline: one timer for all calls instead of one each."""
NOT_APPLIED_ERRORS: Final = (
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "UNKILLABLE",
)
"""Error codes with which a server refuses a command for now and has not applied it."""


class Unreachable(QueueUnavailable):
    """Redis did not answer. `unknown`: the call may have been applied, so that only an idempotent
    one may be repeated."""

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


class Refused(QueueUnavailable):
    """Redis refused the call for now (loading, out of memory, disk full, read-only): nothing was
    applied."""


class PendingCall:
    """A call that was sent and not answered yet."""

    __slots__ = ("arguments", "deadline", "future", "script", "sent_s")

    def __init__(
        self,
        future: asyncio.Future[Reply] | None,
        deadline: float,
        script: Script | None,
        arguments: tuple[Argument, ...],
    ) -> None:
        self.future = future
        self.deadline = deadline
        self.script = script
        self.arguments = arguments
        self.sent_s = time.monotonic()  # The loop's clock counts whole milliseconds.


class RedisPipeline:
    """A pipelined client: calls are sent and answered in order. It reconnects by itself; calls in
    flight on a broken connection fail as `Unreachable(unknown=True)`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._in_flight: deque[PendingCall] = deque()
        self._connection: RespConnection | None = None
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._reconnector: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.round_trips = Histogram()
        """From a call to its reply; a script for many jobs counts once."""

    @classmethod
    async def open(cls, url: str, *, patience_s: float = CALL_TIMEOUT_S) -> RedisPipeline:
        """Connect.

        Raises:
            Unreachable: no connection within `patience_s`; the message names the server without its
                password.
            Refused: the credentials are not accepted.
        """
        pipeline = cls(parse_address(url))
        reason = ""
        deadline = time.monotonic() + patience_s
        for pause_s in (*BACKOFFS_S, *[BACKOFFS_S[-1]] * 1000):
            try:
                await pipeline._connect()
            except (OSError, Unreachable) as error:
                reason = str(error) or type(error).__name__
            else:
                pipeline._reconnector = asyncio.create_task(pipeline._reconnect_forever(), name="redis pipeline")
                return pipeline
            if time.monotonic() + pause_s > deadline:
                break
            await asyncio.sleep(pause_s)
        raise Unreachable(
            f"cannot reach Redis at {pipeline._address.shown}: {reason}. Is it running? SANDLOT_REDIS_URL says where it is.",
            unknown=False,
        )

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    async def ready(self, timeout_s: float) -> bool:
        """Wait until connected. Return False if that takes longer than `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        return self._ready.is_set()

    def call(self, *arguments: Argument) -> asyncio.Future[Reply]:
        """Send one command. The future fails with `Unreachable`, `Refused` or
        `hiredis.ReplyError`."""
        return self._call(None, arguments)

    def run(self, script: Script, *arguments: Argument) -> asyncio.Future[Reply]:
        """Run one script without declared keys (the script builds them). A script that the server
        has forgotten is loaded again."""
        return self._call(script, arguments)

    def run_now(self, script: Script, *arguments: Argument) -> asyncio.Future[Reply]:
        """Run one script and send it at once; see `RespConnection.send_now`."""
        return self._call(script, arguments, now=True)

    def _call(
        self, script: Script | None, arguments: tuple[Argument, ...], *, now: bool = False
    ) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._connection is None or not self._ready.is_set():
            future.set_exception(
                Unreachable(f"Redis at {self._address.shown} is not reachable; the call was not sent", unknown=False)
            )
            return future
        self._send(
            self._connection, PendingCall(future, self._loop.time() + CALL_TIMEOUT_S, script, arguments), now=now
        )
        return future

    def _send(
        self, connection: RespConnection, call: PendingCall, *, whole_text: bool = False, now: bool = False
    ) -> None:
        if now and call.script is not None:
            connection.send_now("EVALSHA", call.script.sha, 0, *call.arguments)
        elif call.script is None:
            connection.send(*call.arguments)
        elif whole_text:
            connection.send("EVAL", call.script.text, 0, *call.arguments)
        else:
            connection.send("EVALSHA", call.script.sha, 0, *call.arguments)
        self._in_flight.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)

    def _check(self) -> None:
        """Close the connection if the oldest call is overdue. Calls are answered in order, so
        nothing behind it will be answered either."""
        self._timer = None
        if not self._in_flight:
            return
        if self._in_flight[0].deadline < self._loop.time():
            log.warning(
                "redis does not answer", extra={"redis": self._address.shown, "in_flight": len(self._in_flight)}
            )
            if self._connection is not None:
                self._connection.close()
            return
        self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)

    def _on_reply(self, reply: Reply) -> None:
        call = self._in_flight.popleft()
        if self._connection is not None and self._connection.parser_grown and not self._in_flight:
            self._connection.replace_parser()
        self.round_trips.observe(time.monotonic() - call.sent_s)
        future = call.future
        if not isinstance(reply, hiredis.ReplyError):
            if future is not None and not future.done():
                future.set_result(reply)
            return
        text = str(reply)
        if text.startswith("NOSCRIPT") and call.script is not None and self._connection is not None:
            # After SCRIPT FLUSH, or on a server that has restarted behind a proxy. EVAL loads the
            # script for all later calls (EVAL, redis.io).
            self._send(self._connection, call, whole_text=True)
        elif future is not None and not future.done():
            future.set_exception(Refused(f"Redis refuses: {text}") if text.startswith(NOT_APPLIED_ERRORS) else reply)

    def _on_lost(self) -> None:
        self._connection = None
        self._ready.clear()
        self._lost.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        in_flight, self._in_flight = self._in_flight, deque()
        for call in in_flight:
            if call.future is not None and not call.future.done():
                call.future.set_exception(
                    Unreachable(
                        f"the connection to Redis at {self._address.shown} broke: unknown whether the call was applied",
                        unknown=True,
                    )
                )

    async def _connect(self) -> None:
        self._lost.clear()
        connection = await open_resp_connection(self._address, self._on_reply, self._on_lost)
        self._connection = connection
        replies = []
        for command in handshake(self._address):
            future: asyncio.Future[Reply] = self._loop.create_future()
            self._send(connection, PendingCall(future, self._loop.time() + CALL_TIMEOUT_S, None, command))
            replies.append(future)
        future = self._loop.create_future()
        self._send(connection, PendingCall(future, self._loop.time() + CALL_TIMEOUT_S, None, ("PING",)))
        replies.append(future)
        try:
            await asyncio.gather(*replies)
        except hiredis.ReplyError as error:
            connection.close()
            raise Refused(f"Redis at {self._address.shown} refuses the connection: {error}") from None
        except QueueUnavailable:
            connection.close()
            raise
        self._ready.set()

    async def _reconnect_forever(self) -> None:
        """Reconnect after every loss until `close` cancels this task."""
        while True:
            await self._lost.wait()
            failures = 0
            while not self.connected:
                await asyncio.sleep(BACKOFFS_S[min(failures, len(BACKOFFS_S) - 1)])
                try:
                    await self._connect()
                except (OSError, QueueUnavailable) as error:
                    if failures == 0:
                        log.warning("redis is not reachable", extra={"redis": self._address.shown, "error": str(error)})
                    failures += 1
            log.info("redis is reachable again", extra={"redis": self._address.shown})

    async def close(self) -> None:
        if self._reconnector is not None:
            self._reconnector.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconnector
            self._reconnector = None
        if self._connection is not None:
            self._connection.close()
            await self._lost.wait()
