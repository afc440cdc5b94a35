"""One sandbox that holds one version: import it, call it, end it.

Knows: one channel, one log pipe, one sandbox, and what each of their ends means. Does not know: other sandboxes, jobs' owners, queues.

A resident does one thing at a time. Each thing ends in exactly one callback, with a value; then it either is `usable` or is to be retired.
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

_LAST_WORDS_S: Final = 0.5
"""How long a process that closed its control descriptor may take to end by itself: 1 ms, or as many as a loaded machine makes of it."""
_BURIAL_S: Final = 0.15
"""How long an outcome waits for what the kernel measured. 250 ms after a limit it has to be out; 500 processes take 150 ms to kill."""
_CANCEL_BURIAL_S: Final = 0.5
"""The same after a cancellation, which has a second: whoever is told of it should find nothing left, on a loaded machine too."""

_ANSWER_FIRST_S: Final = 0.001
"""A kill takes the loop 0.25 ms, which an answer that was just heard would wait for."""

_GROWN: Final = 0.75
"""Of the memory limit."""

_LENGTH: Final = struct.Struct(">I")


class _ContextText(msgspec.Struct):
    job_id: str
    attempt: int
    remaining_ms: int
    traceparent: str


_encode: Final = msgspec.json.Encoder().encode

Settled = Callable[["Instance", Verdict, float, bytes], None]
"""Gets the verdict, the seconds it ran, and what it printed."""
Imported = Callable[["Instance", Verdict | None, float, bytes], None]


class Instance:
    """Owns its sandbox from the constructor on; `dispose` gives everything back, and must be called once."""

    def __init__(
        self, sandbox: Sandbox, spec: VersionSpec, boot_began_s: float, on_lost: Callable[[Instance], None]
    ) -> None:
        """
        Args:
            boot_began_s: by `time.monotonic`, when this sandbox was asked for.
            on_lost: told when it ends, or writes something, while nothing was asked of it.
        """
        self.spec = spec
        self.sandbox = sandbox
        self.receipt = sandbox.receipt
        self.calls = 0
        self._boot_began_s = boot_began_s
        self.boot_ms = 0.0
        """Until the bundle was there."""
        self.import_ms = 0.0
        self.idle_since_s = 0.0
        self.retired = False
        self.outdated = False
        """A secret it was given has changed since: it may end its call, and gets no other."""
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | ForkChannel = (
            ForkChannel(sandbox.control, self._faulty, self._loop, is_stopped=sandbox.is_stopped)
            if spec.isolation is Isolation.FORK and spec.runtime is Runtime.PYTHON
            else Channel(sandbox.control, self._faulty, self._loop)
        )
        self._logs = LogPipe(sandbox.log_fd, spec.log_limit_bytes, self._flooded, self._loop)
        self._end: asyncio.Future[SandboxExit] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._settled: Settled | None = None
        self._unheard: Callable[[], None] | None = None
        self._began_s = 0.0
        self._limit_s = 0.0
        self._importing = False
        self._died_alone = False
        self._logs_taken = b""
        self._weighing: asyncio.Task[None] | None = None
        self._killed = False

    @property
    def forks(self) -> bool:
        """It answers each request from a child of its own."""
        return isinstance(self._channel, ForkChannel)

    @property
    def usable(self) -> bool:
        """Imported, idle, and nothing is known against it."""
        return self._channel.usable and self._ending is None and self._weighing is None

    def start_import(self, limit_s: float, imported: Imported) -> None:
        """Send `I`; `imported` gets None once the function is there, else how that failed."""
        self._importing = True
        self._begin(limit_s, imported)
        self._channel.exchange(INIT, self._init_text(), b"", limit_s, lambda _kind, body: self._ready(body, imported))

    def call(self, execution: Execution, settled: Settled, unheard: Callable[[], None] | None = None) -> bool:
        """Send the request. False if the sandbox turns out to be of no use: nothing was sent and `settled` will not be called.

        Args:
            unheard: called instead of `settled` if the request was not read, as when an earlier call has stopped the template; nobody can
                read it any more once this one is disposed of. Without it that is the end of the call's time.
        """
        limit_s = execution.wall_limit_ms / 1000
        self._begin(limit_s, None)
        if not self._channel.exchange(REQUEST, _head_of(execution), execution.event, limit_s, self._answered):
            return False
        if unheard is None:
            execution.event = b""  # on its way: it need not be kept while the sandbox works
        self._settled = settled
        self._unheard = unheard
        self.calls += 1
        return True

    def kill(self, settled: Settled | None) -> None:
        """End it in the middle of whatever it does. With `settled`, that is told of a cancellation; without, nobody is told anything."""
        self._killed = True
        self._settled = settled
        self._channel.close()
        self._conclude(verdict.of_cancel, burial_s=_CANCEL_BURIAL_S)

    def printed(self) -> bytes:
        """What was printed since the last look, in the middle of a call too; it is then not among the logs of the call."""
        return self._logs.take_output()

    def output(self) -> bytes:
        """What is kept of the output since the last call ended; it stays among the logs of this one."""
        return self._logs.peek_output()

    def clean(self, *, thorough: bool) -> bool:
        """Nothing of the last call is left running. False: it is to be retired.

        A fork template ends what a call has left by itself, and has its next child waiting.
        """
        return self.spec.isolation is Isolation.FORK or not self.sandbox.leftovers(thorough=thorough)

    def grown(self) -> bool:
        """It holds so much memory between calls that the next may fail for it: a function that leaks is replaced before that."""
        return self.sandbox.resident_bytes() > self.spec.memory_limit_mib * MIB * _GROWN

    async def dispose(self) -> None:
        """Kill, wait until everything is dead, close the descriptors."""
        self._channel.close()
        await asyncio.sleep(_ANSWER_FIRST_S)
        self.sandbox.kill()
        if self._weighing is not None:
            await self._weighing
        if self._ending is not None:
            await self._ending
        await self._wait_for_end(None)
        self._logs.close()
        self.sandbox.close()

    # What comes back.

    def _begin(self, limit_s: float, settled: Settled | None) -> None:
        self._limit_s = limit_s
        self._settled = settled
        self._began_s = monotonic()

    def _ready(self, body: bytes, imported: Imported) -> None:
        ran_s = monotonic() - self._began_s
        self._settled = None
        self._account_import(ran_s)
        failed = verdict.of_ready(body)
        # What the import printed belongs to the first invocation; the one that learns of a failed import is that.
        imported(self, failed, ran_s, b"" if failed is None else self._logs.take_output())

    def _account_import(self, ran_s: float) -> None:
        # The runtime may have been told to import before the bundle was there, and have waited for it.
        began_s = max(self._began_s, self.sandbox.attached_s)
        self.boot_ms = (began_s - self._boot_began_s) * 1000
        self.import_ms = (self._began_s + ran_s - began_s) * 1000
        self._importing = False

    def _answered(self, kind: bytes, body: bytes) -> None:
        ran_s = monotonic() - self._began_s
        if kind == RESULT and len(body) > OFFLOAD_BYTES:
            self._weigh(body, ran_s)
            return
        decided = verdict.of_answer(kind, body)
        if decided.kind is OutcomeKind.MEMORY:
            # Its heap is full: the process has no future, and the kernel's figures are worth the wait.
            self._channel.close()
            self._conclude(lambda end: verdict.with_memory_evidence(decided, end, self.spec.memory_limit_mib))
            return
        logs = self._logs.take_output()
        self.sandbox.mark_idle()
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(self, decided, ran_s, logs)

    def _weigh(self, body: bytes, ran_s: float) -> None:
        """A large answer is checked in a thread. It counts as it came: what the process does meanwhile can only end the process."""
        logs = self._logs.take_output()
        self.sandbox.mark_idle()
        settled, self._settled = self._settled, None
        self._weighing = self._loop.create_task(self._decide_aside(body, ran_s, logs, settled))

    async def _decide_aside(self, body: bytes, ran_s: float, logs: bytes, settled: Settled | None) -> None:
        decided = await asyncio.to_thread(verdict.of_answer, RESULT, body)
        self._weighing = None
        if settled is not None and not self._killed:
            settled(self, decided, ran_s, logs)

    def _faulty(self, faulty: ChannelFailure) -> None:
        if self._settled is None:
            self._on_lost(self)
        elif faulty.error is ProtocolError.UNREAD and self._unheard is not None and not self._killed:
            self._settled = None
            self._unheard()
        elif faulty.error in (ProtocolError.DEADLINE, ProtocolError.UNREAD):
            self._conclude(None)
        elif faulty.error is ProtocolError.CLOSED:
            self._conclude(lambda end: self._of_own_end(end, faulty), patience_s=_LAST_WORDS_S)
        else:
            self._conclude(lambda end: verdict.of_garbled(faulty.detail, end))

    def _flooded(self) -> None:
        printed_bytes = self._logs.printed_bytes
        self._channel.close()
        self._logs.close()
        if self._settled is None:
            self._on_lost(self)
        else:
            self._conclude(lambda end: verdict.of_flood(printed_bytes, end))

    # How it ends.

    def _conclude(
        self,
        decide: Callable[[SandboxExit | None], Verdict] | None,
        *,
        patience_s: float = 0.0,
        burial_s: float = _BURIAL_S,
    ) -> None:
        if self._ending is None:
            ran_s = monotonic() - self._began_s
            self._ending = self._loop.create_task(self._end_and_tell(decide, ran_s, patience_s, burial_s))

    async def _end_and_tell(
        self, decide: Callable[[SandboxExit | None], Verdict] | None, ran_s: float, patience_s: float, burial_s: float
    ) -> None:
        """Kill, hear what the kernel measured, decide, tell. `decide` is None for a limit: then the stack is asked for first."""
        trace = b""
        if decide is None:
            self.sandbox.request_stack()
            trace = await stack_trace.read_trace(self.sandbox.trace_fd, self._ended())
        elif patience_s:
            await self._wait_for_end(patience_s)
        self._died_alone = self._end is not None and self._end.done()
        self.sandbox.kill()
        end = await self._wait_for_end(burial_s)
        self._logs_taken = self._logs.take_output()
        decided = self._of_timeout(end, trace, ran_s) if decide is None else decide(end)
        if self._importing:
            self._account_import(ran_s)
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(self, decided, ran_s, self._logs_taken)

    def _of_timeout(self, end: SandboxExit | None, trace: bytes, ran_s: float) -> Verdict:
        if self.spec.runtime == Runtime.PYTHON:
            frames = stack_trace.python_stack(trace, self.sandbox.bundle_path)
        else:
            frames, self._logs_taken = stack_trace.node_stack(self._logs_taken, self.sandbox.bundle_path)
        return verdict.of_timeout(self._limit_s, ran_s, end, frames, importing=self._importing)

    def _of_own_end(self, end: SandboxExit | None, faulty: ChannelFailure) -> Verdict:
        if end is None or not self._died_alone:
            return verdict.of_garbled(faulty.detail, end)
        return verdict.of_end(end, self.spec.memory_limit_mib, self._logs_taken)

    def _ended(self) -> asyncio.Future[SandboxExit]:
        if self._end is None:
            self._end = asyncio.ensure_future(self.sandbox.ended())
        return self._end

    async def _wait_for_end(self, patience_s: float | None) -> SandboxExit | None:
        """How it ended, or None if that takes longer than `patience_s`; None means as long as it takes."""
        end = self._ended()
        await asyncio.wait([end], timeout=patience_s)
        return end.result() if end.done() else None

    # What is sent.

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
    """An `R` body's part before the event: the context's length and its text."""
    text = _encode(_ContextText(execution.job_id, execution.attempt, execution.wall_limit_ms, execution.traceparent))
    if execution.request:
        text = b'{"request":' + execution.request + b"," + text[1:]
    return _LENGTH.pack(len(text)) + text
