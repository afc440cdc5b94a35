"""The pool: which sandbox runs which invocation.

Everything happens on one event loop, in callbacks; a warm invocation makes no task. (Durations come
from `monotonic`, because uvloop's own clock ticks in milliseconds.) Runs of one version that cannot
start at once wait in one line: a boot that completes and an instance that comes free both take the
run that has waited longest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from sandlot.errors import IsolationMissing, SandboxUnavailable, SandlotError, ShuttingDown
from sandlot.models import Isolation, Outcome, Runtime
from worker.execution import Execution, OnDone, VersionSpec
from worker.pool.instance import Instance
from worker.pool.memory import available_memory_mib
from worker.pool.prewarm import PrewarmedPool, kill_and_wait
from worker.pool.scheduling import IdleInstances, Key, Run, WaitQueue, key_of
from worker.pool.verdict import Verdict
from worker.sandbox.host import SandboxHost
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.spec import SandboxSpec

_log: Final = logging.getLogger(__name__)

MEMORY_RESERVE_MIB: Final = 256
"""With less available memory than this and a function's limit, one idle instance is evicted for
each that boots."""

_CALLS_PER_MEMORY_CHECK: Final = 64
"""For an instance that is never idle; the sweep checks the idle ones."""

_SWEEP_S: Final = 1.0
"""How soon a function that goes on computing after its answer is noticed. The check takes about 25
µs for each idle instance."""


class Pool:
    """An executor that uses sandboxes, warm ones if there are any.

    The engine starts at most as many executions as it has slots; the pool does not enforce that.
    """

    def __init__(
        self,
        host: SandboxHost,
        spec_of: Callable[[str, str], Awaitable[VersionSpec]],
        slots: int,
        *,
        prewarmed: int = 2,
        idle_limit: int = 64,
        idle_ttl_s: float = 300.0,
        calls_limit: int = 10_000,
        import_limit_s: float = 10.0,
    ) -> None:
        """
        Args:
            spec_of: returns a version's spec by function and digest; it fetches and unpacks the
                version at most once at a time.
            prewarmed: sandboxes kept ready per runtime.
            idle_limit: idle instances beyond this number are evicted, the least recently used
                first.
            idle_ttl_s: instances that are idle for longer are evicted too.
            calls_limit: calls after which an instance is replaced.
            import_limit_s: for importing the function; the wall limit of a call starts after that.
        """
        self.slots = slots
        self.runtimes = frozenset(Runtime(name) for name in host.runtimes)
        self._spec_of = spec_of
        self._prewarmed = PrewarmedPool(host, prewarmed)
        self._idle_limit = idle_limit
        self._idle_ttl_s = idle_ttl_s
        self._calls_limit = calls_limit
        self._import_limit_s = import_limit_s
        self._idle = IdleInstances()
        self._runs: dict[str, Run] = {}
        self._waiting = WaitQueue()
        self._importing: set[Instance] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._newest_version: dict[str, int] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.evictions = {"memory": 0, "limit": 0, "idle": 0}
        """Idle instances ended because memory was short, the limit was passed, or no call came."""

    @property
    def busy(self) -> int:
        """Executions started and not done, for metrics."""
        return len(self._runs)

    @property
    def idle(self) -> int:
        """Idle instances, for metrics."""
        return len(self._idle)

    @property
    def digests(self) -> set[str]:
        """Versions and package trees whose files an instance may still read."""
        specs = [instance.spec for instance in self._instances()]
        return {spec.digest for spec in specs} | {spec.packages_dir.name for spec in specs if spec.packages_dir}

    def mark_stale(self, secret: str | None) -> None:
        """Give no further call to instances that have an old value of this secret (None: any)."""
        for instance in self._instances():
            if instance.spec.secrets and (secret is None or secret in instance.spec.secrets):
                instance.stale = True
        for instance in list(self._idle):
            if instance.stale:
                self._dispose(instance)

    def _instances(self) -> list[Instance]:
        running = [run.instance for run in self._runs.values() if run.instance is not None]
        return [*self._idle, *self._importing, *running]

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._prewarmed.open()

    async def close(self) -> None:
        """End everything. Running executions end with `ShuttingDown`; drain first to avoid that."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for run in list(self._runs.values()):
            instance = run.instance
            self._finish(run, ShuttingDown("this worker stopped before the invocation ended"))
            if instance is not None:
                instance.kill(None)
                self._dispose(instance)
        for instance in [*self._idle, *self._importing]:
            self._dispose(instance)
        while self._tasks:  # A boot that ends now adds the task that disposes of its instance.
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._prewarmed.close()

    def start(self, execution: Execution, on_done: OnDone) -> None:
        """See `Executor.start`."""
        run = Run(execution, on_done, monotonic())
        self._runs[execution.job_id] = run
        key = run.key
        while (instance := self._idle.pop(key)) is not None:
            if self._call(instance, run):
                return
            self._dispose(instance)
        self._waiting.add(key, run)
        self._boot_if_short(key)

    def cancel(self, job_id: str) -> bool:
        """See `Executor.cancel`."""
        run = self._runs.get(job_id)
        if run is None:
            return False
        if run.instance is None:
            self._waiting.discard(run.key, run)
            self._finish(run, run.cancelled_waiting(monotonic()))
        else:
            run.instance.kill(lambda instance, verdict, ran_s, logs: self._on_end(run, instance, verdict, ran_s, logs))
        return True

    def abandon(self, job_id: str) -> bool:
        """See `Executor.abandon`."""
        run = self._runs.pop(job_id, None)
        if run is None:
            return False
        if run.instance is None:
            self._waiting.discard(run.key, run)
        else:
            run.instance.kill(None)
            self._dispose(run.instance)
        return True

    def output_of(self, job_id: str) -> bytes:
        """See `Executor.output_of`."""
        run = self._runs.get(job_id)
        return b"" if run is None or run.instance is None else run.instance.peek_output()

    # One call.

    def _call(self, instance: Instance, run: Run) -> bool:
        """Send a run to an instance. False if the instance is of no use: nothing was sent."""
        if not instance.usable or (instance.call_count and not instance.is_clean(thorough=False)):
            return False
        run.instance = instance
        may_repeat = instance.forks and not run.repeated
        on_unread = (lambda: self._repeat(run, instance)) if may_repeat else None
        if instance.call(run.execution, lambda *ended: self._on_end(run, *ended), on_unread):
            return True
        run.instance = None
        return False

    def _repeat(self, run: Run, instance: Instance) -> None:
        run.instance, run.repeated = None, True
        instance.draining = True
        self._spawn(self._repeat_elsewhere(run, instance))

    async def _repeat_elsewhere(self, run: Run, instance: Instance) -> None:
        await instance.dispose()  # Until then the process could read the request after all.
        if self._runs.get(run.execution.job_id) is run:
            self._waiting.add(run.key, run, first=True)
            self._boot_if_short(run.key)

    def _on_end(self, run: Run, instance: Instance, verdict: Verdict, ran_s: float, logs: bytes) -> None:
        outcome = run.outcome(instance, verdict, ran_s, logs, monotonic())
        # The instance comes first: the engine may start the next execution from within `on_done`.
        self._free(instance, verdict.spoiled)
        self._finish(run, outcome)

    def _free(self, instance: Instance, spoiled: bool) -> None:
        """Reuse an instance after a call, or dispose of it."""
        if (
            spoiled
            or instance.stale
            or not instance.usable
            or _is_single_use(instance.spec)
            or self._is_worn_out(instance)
        ):
            self._dispose(instance)
        else:
            self._offer(instance)

    def _is_worn_out(self, instance: Instance) -> bool:
        calls = instance.call_count
        return calls >= self._calls_limit or (calls % _CALLS_PER_MEMORY_CHECK == 0 and instance.exceeds_memory())

    def _offer(self, instance: Instance) -> None:
        """Give a usable instance to the next run that waits for its version, or keep it idle."""
        if self._closed:
            self._dispose(instance)
            return
        run = self._waiting.pop(key_of(instance))
        if run is None:
            self._keep_idle(instance)
        elif not self._call(instance, run):
            self._dispose(instance)
            self._waiting.add(key_of(instance), run, first=True)
            self._boot_if_short(key_of(instance))

    def _finish(self, run: Run, ended: Outcome | SandlotError) -> None:
        if self._runs.get(run.execution.job_id) is not run:
            return  # It was abandoned meanwhile.
        del self._runs[run.execution.job_id]
        run.on_done(run.execution, ended)

    # New instances.

    def _boot_if_short(self, key: Key) -> None:
        if self._waiting.begin_boot(key):
            self._spawn(self._boot_for(key))

    async def _boot_for(self, key: Key) -> None:
        """Boot an instance for the run that waits longest for this version, or fail that run."""
        try:
            await self._boot(await self._spec_of(*key))
        except SandlotError as error:
            self._fail_waiting(key, error)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with this machine, the run has to end and free its slot
            _log.exception("boot_failed", extra={"function": key[0], "digest": key[1]})
            self._fail_waiting(key, SandboxUnavailable(f"a sandbox for {key[0]} could not be started: {error}"))

    def _fail_waiting(self, key: Key, error: SandlotError) -> None:
        self._waiting.end_boot(key)
        run = self._waiting.pop(key)
        if run is not None:
            self._finish(run, error)

    async def _boot(self, spec: VersionSpec) -> None:
        began_s = monotonic()
        sandbox_spec = SandboxSpec(memory_limit_mib=spec.memory_limit_mib, network=spec.network)
        sandbox = await self._prewarmed.take(spec.runtime, sandbox_spec)
        try:
            await sandbox.start_attach(spec.bundle_dir, sandbox_spec, spec.packages_dir)
            if not sandbox.waits_inside:
                await sandbox.attached()
            _require_features(spec, sandbox)
        except BaseException:
            await kill_and_wait(sandbox)
            raise
        instance = Instance(sandbox, spec, began_s, self._dispose)
        self._importing.add(instance)
        if self._closed:
            self._dispose(instance)
            return
        instance.start_import(self._import_limit_s, self._on_imported)
        try:
            await sandbox.attached()
        except (SandboxUnavailable, TimeoutError):
            if instance in self._importing:  # Otherwise its import has already failed.
                instance.kill(None)
                self._dispose(instance)
                raise
        self._evict_for(spec)  # Last, because reading the available memory takes 0.2 ms.

    def _on_imported(self, instance: Instance, failed: Verdict | None, _ran_s: float, logs: bytes) -> None:
        self._importing.discard(instance)
        self._waiting.end_boot(key_of(instance))
        if failed is None:
            self._offer(instance)
            return
        run = self._waiting.pop(key_of(instance))
        if run is None:
            self._dispose(instance)
        else:
            self._on_end(run, instance, failed, 0.0, logs)

    # Instances that leave.

    def _dispose(self, instance: Instance) -> None:
        """Take an instance out of use and kill it in the background.

        Also called by an instance whose process ends, or writes something, while it is idle.
        """
        self._idle.discard(instance)
        self._importing.discard(instance)
        if not instance.draining:
            instance.draining = True
            self._spawn(instance.dispose())

    def _keep_idle(self, instance: Instance) -> None:
        instance.idle_since_s = monotonic()
        self._idle.add(instance)
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(_SWEEP_S, self._sweep)
        if len(self._idle) > self._idle_limit:
            self._evict_oldest("limit")

    def _evict_for(self, spec: VersionSpec) -> None:
        """Evict idle instances of older versions, and the oldest of all if memory is short."""
        newest = self._newest_version.get(spec.function, 0)
        if spec.version > newest:
            self._newest_version[spec.function] = spec.version
            for instance in self._idle:
                if instance.spec.function == spec.function and instance.spec.version < spec.version:
                    self._dispose(instance)
        if len(self._idle) and available_memory_mib() < MEMORY_RESERVE_MIB + spec.memory_limit_mib:
            self._evict_oldest("memory")

    def _evict_oldest(self, reason: str) -> None:
        oldest = self._idle.oldest()
        if oldest is not None:
            self.evictions[reason] += 1
            self._dispose(oldest)

    def _sweep(self) -> None:
        """Dispose of instances that were idle for too long, or that are not really idle.

        Runs every second while there are idle instances.
        """
        before_s = monotonic() - self._idle_ttl_s
        for instance in self._idle:
            if instance.idle_since_s < before_s:
                self.evictions["idle"] += 1
                self._dispose(instance)
            elif not instance.is_clean(thorough=True) or instance.exceeds_memory():
                self._dispose(instance)
        self._sweep_timer = self._loop.call_later(_SWEEP_S, self._sweep) if len(self._idle) else None

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("pool_task_failed", exc_info=error)


def _require_features(spec: VersionSpec, sandbox: Sandbox) -> None:
    """Check the receipt, which is complete before any file of the function is read.

    Raises:
        IsolationMissing: the version requires a feature that this sandbox does not have.
    """
    missing = sandbox.lacks(spec.require)
    if missing:
        raise IsolationMissing(
            f"{spec.function} requires isolation features that this worker's {sandbox.level} sandboxes do not have: {', '.join(missing)}."
            " See `strict` in docs/sandbox.md for how a machine provides them, or give such functions a tag of workers that do"
        )


def _is_single_use(spec: VersionSpec) -> bool:
    """Return whether each call gets a sandbox of its own.

    Node cannot fork a running program, so its `fork` is a new sandbox for each call.
    """
    return spec.isolation is Isolation.SANDBOX or (spec.isolation is Isolation.FORK and spec.runtime is Runtime.NODE)
