"""One connection to Redis, in bytes and replies.

Knows: RESP2 (through hiredis), the greeting (AUTH, SELECT), coalesced writes. Does not know: which reply answers which call.
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

Argument = bytes | str | int | float
"""What a command is made of; sent as text, bytes as they are."""
Reply = object
"""What hiredis makes of an answer: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""

BACKOFFS_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Between attempts to reconnect: quick for a restart, a second at most."""

LARGE_BYTES: Final = 65_536
"""An argument above is sent from where it is: hiredis takes 15 ms to copy 8 MB into one command, in which nothing else happens."""


class Wire(asyncio.Protocol):
    """A socket with a RESP parser on it. Writes of one loop tick leave in one send."""

    def __init__(self, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self.swollen = False
        """The parser may hold the room that a large reply needed: it keeps it until it is fed again, which may be a second later."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        reader, on_reply = self._reader, self._on_reply
        if len(data) > LARGE_BYTES:
            self.swollen = True
        reader.feed(data)
        try:
            reply = reader.gets()
            while reply is not False:
                on_reply(reply)
                reply = reader.gets()
        except hiredis.ProtocolError:
            # Not RESP: whatever is at the other end, nothing it says can be used.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def shrink(self) -> None:
        """Let go of that room. Only for who knows that no part of another reply has arrived: it would be lost."""
        self._reader, self.swollen = hiredis.Reader(), False

    def send(self, *arguments: Argument) -> None:
        """Queue one command for this tick's write. A closed wire drops it: `on_lost` has told, or is about to tell, its owner."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pack(arguments)

    def send_now(self, *arguments: Argument) -> None:
        """The same without waiting for the end of the tick: for what already is everything of this tick. (Another round of the event loop
        is another system call.)"""
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
        """Drop the connection at once; `on_lost` follows."""
        if self._transport is not None:
            self._transport.abort()


def _pack_in_parts(arguments: tuple[Argument, ...]) -> list[bytes]:
    """One command as RESP2 writes it, its large arguments uncopied."""
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


def greeting(address: Address) -> list[tuple[Argument, ...]]:
    """What is said before anything else; each is answered by `OK`."""
    commands: list[tuple[Argument, ...]] = []
    if address.password:
        commands.append(
            ("AUTH", address.username, address.password) if address.username else ("AUTH", address.password)
        )
    if address.db:
        commands.append(("SELECT", address.db))
    return commands


async def open_wire(address: Address, on_reply: Callable[[Reply], None], on_lost: Callable[[], None]) -> Wire:
    """A connected wire.

    Raises:
        OSError, TimeoutError: no connection.
    """
    wire = Wire(on_reply, on_lost)
    await open_transport(address, wire)
    return wire


log = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 0.25
"""How often the oldest call in flight is compared with its deadline: one timer for all, instead of one per call."""
NOT_NOW: Final = (
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
"""Error codes that say: this server will not do it at the moment, and has not."""


class Unreachable(QueueUnavailable):
    """No answer. `unknown` tells whether the call may have been applied; only an idempotent call may then be repeated."""

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


class Refused(QueueUnavailable):
    """Redis answered that it cannot do it now (loading, out of memory, disk full, read-only): nothing was applied."""


class Call:
    """A call in flight."""

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
        self.sent_s = time.monotonic()  # not the loop's, which counts whole milliseconds


class RedisPipeline:
    """Calls go out in order and are answered in order. Opens itself again when the connection breaks; what was in flight then
    fails as `Unreachable(unknown=True)`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._in_flight: deque[Call] = deque()
        self._wire: Wire | None = None
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.round_trips = Histogram()
        """From a call to its answer; a script that is one for many jobs counts once."""

    @classmethod
    async def open(cls, url: str, *, patience_s: float = CALL_TIMEOUT_S) -> RedisPipeline:
        """
        Raises:
            Unreachable: no connection within `patience_s`; the message names the server without its password.
            Refused: the credentials are not accepted.
        """
        link = cls(parse_address(url))
        reason = ""
        deadline = time.monotonic() + patience_s
        for pause_s in (*BACKOFFS_S, *[BACKOFFS_S[-1]] * 1000):
            try:
                await link._connect()
            except (OSError, Unreachable) as error:
                reason = str(error) or type(error).__name__
            else:
                link._keeper = asyncio.create_task(link._keep(), name="link")
                return link
            if time.monotonic() + pause_s > deadline:
                break
            await asyncio.sleep(pause_s)
        raise Unreachable(
            f"cannot reach Redis at {link._address.shown}: {reason}. Is it running? SANDLOT_REDIS_URL says where it is.",
            unknown=False,
        )

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    async def ready(self, timeout_s: float) -> bool:
        """Wait until connected; false when that took too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        return self._ready.is_set()

    def call(self, *arguments: Argument) -> asyncio.Future[Reply]:
        """One command. The future fails with `Unreachable`, `Refused` or `hiredis.ReplyError`."""
        return self._call(None, arguments)

    def run(self, script: Script, *arguments: Argument) -> asyncio.Future[Reply]:
        """One script without declared keys (they are built inside). Loaded again by itself when the server has forgotten it."""
        return self._call(script, arguments)

    def run_now(self, script: Script, *arguments: Argument) -> asyncio.Future[Reply]:
        """`run` for who has gathered all there is to send in this tick: it leaves at once."""
        return self._call(script, arguments, now=True)

    def _call(
        self, script: Script | None, arguments: tuple[Argument, ...], *, now: bool = False
    ) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._wire is None or not self._ready.is_set():
            future.set_exception(
                Unreachable(f"Redis at {self._address.shown} is not reachable; the call was not sent", unknown=False)
            )
            return future
        self._send(self._wire, Call(future, self._loop.time() + CALL_TIMEOUT_S, script, arguments), now=now)
        return future

    def _send(self, wire: Wire, call: Call, *, whole_text: bool = False, now: bool = False) -> None:
        if now and call.script is not None:
            wire.send_now("EVALSHA", call.script.sha, 0, *call.arguments)
        elif call.script is None:
            wire.send(*call.arguments)
        elif whole_text:
            wire.send("EVAL", call.script.text, 0, *call.arguments)
        else:
            wire.send("EVALSHA", call.script.sha, 0, *call.arguments)
        self._in_flight.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)

    def _check(self) -> None:
        """Calls are answered in order, so the oldest is the one to watch. When it is overdue, nothing behind it will come either."""
        self._timer = None
        if not self._in_flight:
            return
        if self._in_flight[0].deadline < self._loop.time():
            log.warning(
                "redis does not answer", extra={"redis": self._address.shown, "in_flight": len(self._in_flight)}
            )
            if self._wire is not None:
                self._wire.close()
            return
        self._timer = self._loop.call_later(CHECK_INTERVAL_S, self._check)

    def _on_reply(self, reply: Reply) -> None:
        call = self._in_flight.popleft()
        if self._wire is not None and self._wire.swollen and not self._in_flight:
            self._wire.shrink()
        self.round_trips.observe(time.monotonic() - call.sent_s)
        future = call.future
        if not isinstance(reply, hiredis.ReplyError):
            if future is not None and not future.done():
                future.set_result(reply)
            return
        text = str(reply)
        if text.startswith("NOSCRIPT") and call.script is not None and self._wire is not None:
            # After SCRIPT FLUSH, or on a server that has restarted under a proxy; EVAL loads it for all later calls.
            self._send(self._wire, call, whole_text=True)
        elif future is not None and not future.done():
            future.set_exception(Refused(f"Redis refuses: {text}") if text.startswith(NOT_NOW) else reply)

    def _on_lost(self) -> None:
        self._wire = None
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
        wire = await open_wire(self._address, self._on_reply, self._on_lost)
        self._wire = wire
        replies = []
        for command in greeting(self._address):
            future: asyncio.Future[Reply] = self._loop.create_future()
            self._send(wire, Call(future, self._loop.time() + CALL_TIMEOUT_S, None, command))
            replies.append(future)
        future = self._loop.create_future()
        self._send(wire, Call(future, self._loop.time() + CALL_TIMEOUT_S, None, ("PING",)))
        replies.append(future)
        try:
            await asyncio.gather(*replies)
        except hiredis.ReplyError as error:
            wire.close()
            raise Refused(f"Redis at {self._address.shown} refuses the connection: {error}") from None
        except QueueUnavailable:
            wire.close()
            raise
        self._ready.set()

    async def _keep(self) -> None:
        """Reconnect for as long as the link is open."""
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
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        if self._wire is not None:
            self._wire.close()
            await self._lost.wait()
