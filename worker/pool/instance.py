"""An instance: one sandbox that holds one version, imports it and calls it.

An instance does one thing at a time. Each import or call ends in exactly one callback with a value.
After it the instance is either `usable` or has to be disposed of.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from time import monotonic
from typing import Final

import msgspec

from sandlot.models import Isolation, OutcomeKind, Runtime
from sandlot.offload import OFFLOAD_BYTES
from worker.execution import Execution, VersionSpec
from worker.pool import stack_trace, verdict
from worker.pool.verdict import MIB, Verdict
from worker.sandbox.channel import INIT, REQUEST, RESULT, RESULT_LIMIT_BYTES, Channel, ChannelFailure, ProtocolError
from worker.sandbox.fork_channel import ForkChannel
from worker.sandbox.log_pipe import LogPipe
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.spec import SandboxExit

PROTOCOL: Final = 1
"""Version of `runtimes/PROTOCOL.md`, sent with the import."""

_OWN_EXIT_WAIT_S: Final = 0.5
"""Time for a process that closed its control descriptor to exit by itself: it takes 1 ms, or as
many as a loaded machine makes of it."""
_KILL_WAIT_S: Final = 0.15
"""How long an outcome waits for the kernel's figures after a kill. The outcome has to be out 250 ms
after a limit; 500 processes take 150 ms to kill."""
_CANCEL_KILL_WAIT_S: Final = 0.5
"""The same after a cancellation, which has a second: once the caller hears of it, no process should
be left, on a loaded machine either."""
_KILL_DELAY_S: Final = 0.001
"""A kill keeps the loop for 0.25 ms. An answer that has just arrived goes first."""
_MEMORY_SHARE: Final = 0.75
"""Share of the memory limit that an idle instance may hold."""

_LENGTH: Final = struct.Struct(">I")


class _ContextText(msgspec.Struct):
    job_id: str
    attempt: int
    remaining_ms: int
    traceparent: str


_encode: Final = msgspec.json.Encoder().encode

OnEnd = Callable[["Instance", Verdict, float, bytes], None]
"""Takes the verdict, the seconds the call ran, and its output."""
OnImported = Callable[["Instance", Verdict | None, float, bytes], None]
"""The same for an import; the verdict is None if the function was imported."""


class Instance:
    """A sandbox bound to one version.

    It owns its sandbox from the constructor on. `dispose` gives everything back and must be called
    once.
    """

    def __init__(
        self, sandbox: Sandbox, spec: VersionSpec, boot_began_s: float, on_lost: Callable[[Instance], None]
    ) -> None:
        """
        Args:
            boot_began_s: by `time.monotonic`, when this sandbox was asked for.
            on_lost: called when the process ends, or writes something, while it is idle.
        """
        self.spec = spec
        self.sandbox = sandbox
        self.receipt = sandbox.receipt
        self.call_count = 0
        self._boot_began_s = boot_began_s
        self.boot_ms = 0.0
        """Time until the sandbox had the bundle."""
        self.import_ms = 0.0
        self.idle_since_s = 0.0
        self.draining = False
        """Set by the pool: it is being disposed of."""
        self.stale = False
        """One of its secrets has changed: it may end its call and gets no other."""
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | ForkChannel = (
            ForkChannel(sandbox.control, self._on_failure, self._loop, is_stopped=sandbox.is_stopped)
            if spec.isolation is Isolation.FORK and spec.runtime is Runtime.PYTHON
            else Channel(sandbox.control, self._on_failure, self._loop)
        )
        self._logs = LogPipe(sandbox.log_fd, spec.log_limit_bytes, self._on_flood, self._loop)
        self._exit: asyncio.Future[SandboxExit] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._on_end: OnEnd | None = None
        self._on_unread: Callable[[], None] | None = None
        self._began_s = 0.0
        self._limit_s = 0.0
        self._importing = False
        self._exited_by_itself = False
        self._logs_taken = b""
        self._checking: asyncio.Task[None] | None = None
        self._killed = False

    @property
    def forks(self) -> bool:
        """True if it answers each request from a child process of its own."""
        return isinstance(self._channel, ForkChannel)

    @property
    def usable(self) -> bool:
        """True if the version is imported, no call runs, and no fault is known."""
        return self._channel.usable and self._ending is None and self._checking is None

    def start_import(self, limit_s: float, on_imported: OnImported) -> None:
        """Send the import frame (`I`)."""
        self._importing = True
        self._begin(limit_s, on_imported)
        self._channel.exchange(
            INIT, self._init_text(), b"", limit_s, lambda _kind, body: self._on_ready(body, on_imported)
        )

    def call(self, execution: Execution, on_end: OnEnd, on_unread: Callable[[], None] | None = None) -> bool:
        """Send a request frame (`R`).

        Args:
            on_unread: called instead of `on_end` if the process did not read the request, for
                example because an earlier call has stopped the fork template. The request cannot be
                read any more once this instance is disposed of. Without this callback an unread
                request ends as a timeout.

        Returns:
            False if the sandbox turns out to be unusable: nothing was sent and no callback follows.
        """
        limit_s = execution.wall_limit_ms / 1000
        self._begin(limit_s, None)
        if not self._channel.exchange(REQUEST, _head_of(execution), execution.event, limit_s, self._on_answer):
            return False
        if on_unread is None:
            execution.event = b""  # It is on its way and need not be kept while the function runs.
        self._on_end = on_end
        self._on_unread = on_unread
        self.call_count += 1
        return True

    def kill(self, on_end: OnEnd | None) -> None:
        """Kill it in the middle of a call or an import.

        Args:
            on_end: called with a verdict of kind `cancelled`. Without it no callback follows.
        """
        self._killed = True
        self._on_end = on_end
        self._channel.close()
        self._conclude(verdict.of_cancel, kill_wait_s=_CANCEL_KILL_WAIT_S)

    def take_output(self) -> bytes:
        """Return the output since the last look, during a call as well.

        It is then missing in the logs of the call.
        """
        return self._logs.take_output()

    def peek_output(self) -> bytes:
        """Return the kept output since the last call ended; it stays in the logs of this one."""
        return self._logs.peek_output()

    def is_clean(self, *, thorough: bool) -> bool:
        """Return whether the last call has left nothing running. If not, the instance is of no use.

        A fork template itself kills what a call has left, and has its next child waiting.
        """
        return self.spec.isolation is Isolation.FORK or not self.sandbox.leftovers(thorough=thorough)

    def exceeds_memory(self) -> bool:
        """Return whether it holds so much memory between calls that the next one may fail for it.

        A function that leaks is replaced before that happens.
        """
        return self.sandbox.resident_bytes() > self.spec.memory_limit_mib * MIB * _MEMORY_SHARE

    async def dispose(self) -> None:
        """Kill the sandbox, wait until every process in it is dead, and close the descriptors."""
        self._channel.close()
        await asyncio.sleep(_KILL_DELAY_S)
        self.sandbox.kill()
        if self._checking is not None:
            await self._checking
        if self._ending is not None:
            await self._ending
        await self._wait_for_exit(None)
        self._logs.close()
        self.sandbox.close()

    # Answers and faults.

    def _begin(self, limit_s: float, on_end: OnEnd | None) -> None:
        self._limit_s = limit_s
        self._on_end = on_end
        self._began_s = monotonic()

    def _on_ready(self, body: bytes, on_imported: OnImported) -> None:
        ran_s = monotonic() - self._began_s
        self._on_end = None
        self._time_import(ran_s)
        failed = verdict.of_ready(body)
        # The first call gets the output of a successful import; of a failed one, the call that
        # fails.
        on_imported(self, failed, ran_s, b"" if failed is None else self._logs.take_output())

    def _time_import(self, ran_s: float) -> None:
        # The runtime may have got the import frame before it had the bundle, and have waited for
        # it.
        began_s = max(self._began_s, self.sandbox.attached_s)
        self.boot_ms = (began_s - self._boot_began_s) * 1000
        self.import_ms = (self._began_s + ran_s - began_s) * 1000
        self._importing = False

    def _on_answer(self, kind: bytes, body: bytes) -> None:
        ran_s = monotonic() - self._began_s
        if kind == RESULT and len(body) > OFFLOAD_BYTES:
            self._check_in_thread(body, ran_s)
            return
        decided = verdict.of_answer(kind, body)
        if decided.kind is OutcomeKind.MEMORY:
            # Its heap is full. The process is of no further use, and the kernel's figures are worth
            # the wait.
            self._channel.close()
            self._conclude(lambda end: verdict.with_memory_evidence(decided, end, self.spec.memory_limit_mib))
            return
        logs = self._logs.take_output()
        self.sandbox.mark_idle()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, decided, ran_s, logs)

    def _check_in_thread(self, body: bytes, ran_s: float) -> None:
        """Have a large answer checked in a thread.

        The answer is final: whatever the process does meanwhile can only end the process.
        """
        logs = self._logs.take_output()
        self.sandbox.mark_idle()
        on_end, self._on_end = self._on_end, None
        self._checking = self._loop.create_task(self._check(body, ran_s, logs, on_end))

    async def _check(self, body: bytes, ran_s: float, logs: bytes, on_end: OnEnd | None) -> None:
        decided = await asyncio.to_thread(verdict.of_answer, RESULT, body)
        self._checking = None
        if on_end is not None and not self._killed:
            on_end(self, decided, ran_s, logs)

    def _on_failure(self, failure: ChannelFailure) -> None:
        if self._on_end is None:
            self._on_lost(self)
        elif failure.error is ProtocolError.UNREAD and self._on_unread is not None and not self._killed:
            self._on_end = None
            self._on_unread()
        elif failure.error in (ProtocolError.DEADLINE, ProtocolError.UNREAD):
            self._conclude(None)
        elif failure.error is ProtocolError.CLOSED:
            self._conclude(lambda end: self._of_own_exit(end, failure), own_exit_wait_s=_OWN_EXIT_WAIT_S)
        else:
            self._conclude(lambda end: verdict.of_garbled(failure.detail, end))

    def _on_flood(self) -> None:
        printed_bytes = self._logs.printed_bytes
        self._channel.close()
        self._logs.close()
        if self._on_end is None:
            self._on_lost(self)
        else:
            self._conclude(lambda end: verdict.of_flood(printed_bytes, end))

    # The end of the sandbox.

    def _conclude(
        self,
        decide: Callable[[SandboxExit | None], Verdict] | None,
        *,
        own_exit_wait_s: float = 0.0,
        kill_wait_s: float = _KILL_WAIT_S,
    ) -> None:
        if self._ending is None:
            ran_s = monotonic() - self._began_s
            self._ending = self._loop.create_task(self._kill_and_decide(decide, ran_s, own_exit_wait_s, kill_wait_s))

    async def _kill_and_decide(
        self,
        decide: Callable[[SandboxExit | None], Verdict] | None,
        ran_s: float,
        own_exit_wait_s: float,
        kill_wait_s: float,
    ) -> None:
        """Kill the sandbox, wait for the kernel's figures, decide, and call back.

        Args:
            decide: None after a time limit: the stack is then read before the kill.
        """
        trace = b""
        if decide is None:
            self.sandbox.request_stack()
            trace = await stack_trace.read_trace(self.sandbox.trace_fd, self._exit_future())
        elif own_exit_wait_s:
            await self._wait_for_exit(own_exit_wait_s)
        self._exited_by_itself = self._exit is not None and self._exit.done()
        self.sandbox.kill()
        end = await self._wait_for_exit(kill_wait_s)
        self._logs_taken = self._logs.take_output()
        decided = self._of_timeout(end, trace, ran_s) if decide is None else decide(end)
        if self._importing:
            self._time_import(ran_s)
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, decided, ran_s, self._logs_taken)

    def _of_timeout(self, end: SandboxExit | None, trace: bytes, ran_s: float) -> Verdict:
        if self.spec.runtime == Runtime.PYTHON:
            frames = stack_trace.python_stack(trace, self.sandbox.bundle_path)
        else:
            frames, self._logs_taken = stack_trace.node_stack(self._logs_taken, self.sandbox.bundle_path)
        return verdict.of_timeout(self._limit_s, ran_s, end, frames, importing=self._importing)

    def _of_own_exit(self, end: SandboxExit | None, failure: ChannelFailure) -> Verdict:
        if end is None or not self._exited_by_itself:
            return verdict.of_garbled(failure.detail, end)
        return verdict.of_end(end, self.spec.memory_limit_mib, self._logs_taken)

    def _exit_future(self) -> asyncio.Future[SandboxExit]:
        if self._exit is None:
            self._exit = asyncio.ensure_future(self.sandbox.ended())
        return self._exit

    async def _wait_for_exit(self, limit_s: float | None) -> SandboxExit | None:
        """Return how the sandbox ended, or None if it did not within `limit_s` (None: no limit)."""
        end = self._exit_future()
        await asyncio.wait([end], timeout=limit_s)
        return end.result() if end.done() else None

    # Bodies of frames.

    def _init_text(self) -> bytes:
        spec = self.spec
        return _encode(
            {
                "protocol": PROTOCOL,
                "bundle": self.sandbox.bundle_path,
                "packages": self.sandbox.packages_path,
                "handler": spec.handler,
                "environment": dict(spec.environment),
                "secrets": dict(spec.secrets),
                "function": spec.function,
                "version": str(spec.version),
                "memory_limit_mib": spec.memory_limit_mib,
                "result_limit_bytes": RESULT_LIMIT_BYTES,
                "isolation": spec.isolation,
                "alone": self.sandbox.alone,
            }
        )


def _head_of(execution: Execution) -> bytes:
    """Return the part of a request's body before the event: the context's length and its text."""
    text = _encode(_ContextText(execution.job_id, execution.attempt, execution.wall_limit_ms, execution.traceparent))
    if execution.request:
        text = b'{"request":' + execution.request + b"," + text[1:]
    return _LENGTH.pack(len(text)) + text
