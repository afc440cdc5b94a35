"""Which sandbox runs which invocation.

Knows: slots, idle residents, blanks, when a resident is retired. Does not know: Redis, HTTP, walls, what an outcome's kind depends on.

Everything happens on one event loop, in callbacks; a warm invocation makes no task. (Durations come from `monotonic`: uvloop's own clock ticks in
milliseconds.) Invocations of one version that cannot be run at
once wait together: a boot that completes, and a resident that comes free, both take the one that has waited longest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from sandlot.errors import IsolationMissing, SandboxUnavailable, SandlotError, ShuttingDown
from sandlot.models import Isolation, Outcome, Runtime
from worker.execution import Execution, VersionSpec
from worker.pool.instance import Instance
from worker.pool.memory import available_memory_mib
from worker.pool.prewarm import PrewarmedPool, kill_and_wait
from worker.pool.scheduling import Done, IdleInstances, Key, Run, WaitQueue, key_of
from worker.pool.verdict import Verdict
from worker.sandbox.host import SandboxHost
from worker.sandbox.sandbox import Sandbox
from worker.sandbox.spec import SandboxSpec

_log: Final = logging.getLogger(__name__)

_CALLS_PER_LOOK: Final = 64
"""One that is never idle is weighed after so many calls; the idle ones are weighed by the sweep."""

MEMORY_RESERVE_MIB: Final = 256
"""Less available memory than this and what a function may use, and an idle resident goes for each that boots."""

_SWEEP_S: Final = 1.0
"""How soon a function that goes on computing after its answer is noticed; a look costs some 25 µs for each idle resident."""


class Pool:
    """At most `slots` invocations at once are meant; whoever claims work asks `busy` first."""

    def __init__(
        self,
        host: SandboxHost,
        spec_of: Callable[[str, str], Awaitable[VersionSpec]],
        slots: int,
        *,
        blanks: int = 2,
        idle_limit: int = 64,
        idle_ttl_s: float = 300.0,
        calls_limit: int = 10_000,
        import_limit_s: float = 10.0,
    ) -> None:
        """
        Args:
            spec_of: the version's spec by function and digest; fetches and unpacks it at most once at a time.
            blanks: started sandboxes kept ready per runtime.
            idle_limit: idle residents beyond this are ended, the least recently used first; so are those idle for `idle_ttl_s`.
            calls_limit: invocations after which a process is replaced.
            import_limit_s: for importing the function; its wall limit starts after that.
        """
        self.slots = slots
        self.runtimes = frozenset(Runtime(name) for name in host.runtimes)
        self._spec_of = spec_of
        self._blanks = PrewarmedPool(host, blanks)
        self._idle_limit = idle_limit
        self._idle_ttl_s = idle_ttl_s
        self._calls_limit = calls_limit
        self._import_limit_s = import_limit_s
        self._shelf = IdleInstances()
        self._runs: dict[str, Run] = {}
        self._waiting: WaitQueue[Run] = WaitQueue()
        self._importing: set[Instance] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._newest: dict[str, int] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.evictions = {"memory": 0, "limit": 0, "idle": 0}
        """Idle residents ended: for want of memory, beyond the limit, or because nobody called for long."""

    @property
    def busy(self) -> int:
        """Executions started and not done."""
        return len(self._runs)

    @property
    def idle(self) -> int:
        """Residents that wait for another invocation of their version."""
        return len(self._shelf)

    @property
    def digests(self) -> set[str]:
        """The versions, and the trees of packages, whose files some resident may still read."""
        specs = [resident.spec for resident in self._residents()]
        return {spec.digest for spec in specs} | {spec.packages_dir.name for spec in specs if spec.packages_dir}

    def renew(self, secret: str | None) -> None:
        """This secret (any, for `None`) may have another value now: whoever was given it serves no further call."""
        for resident in self._residents():
            if resident.spec.secrets and (secret is None or secret in resident.spec.secrets):
                resident.outdated = True
        for resident in list(self._shelf):
            if resident.outdated:
                self._retire(resident)

    def _residents(self) -> list[Instance]:
        running = [run.resident for run in self._runs.values() if run.resident is not None]
        return [*self._shelf, *self._importing, *running]

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._blanks.open()

    async def close(self) -> None:
        """End everything. Executions still running are done with `ShuttingDown`; drain first to avoid that."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for run in list(self._runs.values()):
            resident = run.resident
            self._finish(run, ShuttingDown("this worker stopped before the invocation ended"))
            if resident is not None:
                resident.kill(None)
                self._retire(resident)
        for resident in [*self._shelf, *self._importing]:
            self._retire(resident)
        while self._tasks:  # a boot that ends now starts the end of its resident
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._blanks.close()

    def start(self, execution: Execution, done: Done) -> None:
        """Run it as soon as there is a sandbox for it. Never blocks; `done` is called exactly once, from the loop."""
        run = Run(execution, done, monotonic())
        self._runs[execution.job_id] = run
        key = run.key
        while (resident := self._shelf.take(key)) is not None:
            if self._call(resident, run):
                return
            self._retire(resident)
        self._waiting.add(key, run)
        self._boot_if_short(key)

    def cancel(self, job_id: str) -> bool:
        """Kill its sandbox; `done` gets an outcome of kind `cancelled`. False if it is not running here."""
        run = self._runs.get(job_id)
        if run is None:
            return False
        if run.resident is None:
            self._waiting.remove(run.key, run)
            self._finish(run, run.cancelled_waiting(monotonic()))
        else:
            run.resident.kill(lambda resident, verdict, ran_s, logs: self._settle(run, resident, verdict, ran_s, logs))
        return True

    def abandon(self, job_id: str) -> bool:
        """The right to run it is lost: kill its sandbox, and never call `done`. False if it is not running here."""
        run = self._runs.pop(job_id, None)
        if run is None:
            return False
        if run.resident is None:
            self._waiting.remove(run.key, run)
        else:
            run.resident.kill(None)
            self._retire(run.resident)
        return True

    def printed(self, job_id: str) -> bytes:
        """What a running job has printed so far, as far as it is kept."""
        run = self._runs.get(job_id)
        return b"" if run is None or run.resident is None else run.resident.output()

    # One invocation.

    def _call(self, resident: Instance, run: Run) -> bool:
        if not resident.usable or (resident.calls and not resident.clean(thorough=False)):
            return False
        run.resident = resident
        may_repeat = resident.forks and not run.repeated
        unheard = (lambda: self._repeat(run, resident)) if may_repeat else None
        if resident.call(run.execution, lambda *ended: self._settle(run, *ended), unheard):
            return True
        run.resident = None
        return False

    def _repeat(self, run: Run, resident: Instance) -> None:
        run.resident, run.repeated = None, True
        resident.retired = True
        self._spawn(self._repeat_elsewhere(run, resident))

    async def _repeat_elsewhere(self, run: Run, resident: Instance) -> None:
        await resident.dispose()  # until then somebody could read the request after all
        if self._runs.get(run.execution.job_id) is run:
            self._waiting.add(run.key, run, first=True)
            self._boot_if_short(run.key)

    def _settle(self, run: Run, resident: Instance, verdict: Verdict, ran_s: float, logs: bytes) -> None:
        outcome = run.outcome(resident, verdict, ran_s, logs, monotonic())
        # First the resident, then the word: whoever hears it may start the next invocation at once.
        self._release(resident, verdict.spoiled)
        self._finish(run, outcome)

    def _release(self, resident: Instance, spoiled: bool) -> None:
        """After a call: the next that waits, the shelf, or the end."""
        if (
            spoiled
            or resident.outdated
            or not resident.usable
            or _single_use(resident.spec)
            or self._worn_out(resident)
        ):
            self._retire(resident)
        else:
            self._offer(resident)

    def _worn_out(self, resident: Instance) -> bool:
        return resident.calls >= self._calls_limit or (resident.calls % _CALLS_PER_LOOK == 0 and resident.grown())

    def _offer(self, resident: Instance) -> None:
        """Give a usable resident to whoever waits for its version, else put it on the shelf."""
        if self._closed:
            self._retire(resident)
            return
        run = self._waiting.next(key_of(resident))
        if run is None:
            self._park(resident)
        elif not self._call(resident, run):
            self._retire(resident)
            self._waiting.add(key_of(resident), run, first=True)
            self._boot_if_short(key_of(resident))

    def _finish(self, run: Run, ended: Outcome | SandlotError) -> None:
        if self._runs.get(run.execution.job_id) is not run:
            return  # Abandoned meanwhile: nobody wants to know.
        del self._runs[run.execution.job_id]
        run.done(run.execution, ended)

    # New residents.

    def _boot_if_short(self, key: Key) -> None:
        if self._waiting.begin_boot(key):
            self._spawn(self._board(key))

    async def _board(self, key: Key) -> None:
        """Boot a resident of this version for whoever waits longest for it."""
        try:
            await self._boot(await self._spec_of(*key))
        except SandlotError as error:
            self._fail_waiting(key, error)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with this machine, the caller hears of it and the slot comes free
            _log.exception("boot_failed", extra={"function": key[0], "digest": key[1]})
            self._fail_waiting(key, SandboxUnavailable(f"a sandbox for {key[0]} could not be started: {error}"))

    def _fail_waiting(self, key: Key, error: SandlotError) -> None:
        self._waiting.end_boot(key)
        run = self._waiting.next(key)
        if run is not None:
            self._finish(run, error)

    async def _boot(self, spec: VersionSpec) -> None:
        began_s = monotonic()
        policy = SandboxSpec(memory_limit_mib=spec.memory_limit_mib, network=spec.network)
        sandbox = await self._blanks.take(spec.runtime, policy)
        try:
            await sandbox.start_attach(spec.bundle_dir, policy, spec.packages_dir)
            if not sandbox.waits_inside:
                await sandbox.attached()
            _require_features(spec, sandbox)
        except BaseException:
            await kill_and_wait(sandbox)
            raise
        resident = Instance(sandbox, spec, began_s, self._lost)
        self._importing.add(resident)
        if self._closed:
            self._retire(resident)
            return
        resident.start_import(self._import_limit_s, self._imported)
        try:
            await sandbox.attached()
        except (SandboxUnavailable, TimeoutError):
            if resident in self._importing:  # else it is settled already, as what became of its import
                resident.kill(None)
                self._retire(resident)
                raise
        self._make_room(spec)  # last: to look how much memory there is takes 0.2 ms

    def _imported(self, resident: Instance, failed: Verdict | None, _ran_s: float, logs: bytes) -> None:
        self._importing.discard(resident)
        self._waiting.end_boot(key_of(resident))
        if failed is None:
            self._offer(resident)
            return
        run = self._waiting.next(key_of(resident))
        if run is None:
            self._retire(resident)
        else:
            self._settle(run, resident, failed, 0.0, logs)

    # Residents that leave.

    def _lost(self, resident: Instance) -> None:
        """It ended, or wrote something, while nothing was asked of it."""
        self._shelf.remove(resident)
        self._retire(resident)

    def _retire(self, resident: Instance) -> None:
        self._shelf.remove(resident)
        self._importing.discard(resident)
        if not resident.retired:
            resident.retired = True
            self._spawn(resident.dispose())

    def _park(self, resident: Instance) -> None:
        resident.idle_since_s = monotonic()
        self._shelf.put(resident)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        if len(self._shelf) > self._idle_limit:
            self._evict_oldest("limit")

    def _make_room(self, spec: VersionSpec) -> None:
        """For one that boots: idle residents of older versions go, and if memory is short, those that were idle longest."""
        newest = self._newest.get(spec.function, 0)
        if spec.version > newest:
            self._newest[spec.function] = spec.version
            for resident in self._shelf:
                if resident.spec.function == spec.function and resident.spec.version < spec.version:
                    self._retire(resident)
        if len(self._shelf) and available_memory_mib() < MEMORY_RESERVE_MIB + spec.memory_limit_mib:
            self._evict_oldest("memory")

    def _evict_oldest(self, reason: str) -> None:
        oldest = self._shelf.oldest()
        if oldest is not None:
            self.evictions[reason] += 1
            self._retire(oldest)

    def _sweep(self) -> None:
        """Retire who has been idle for too long, or is not idle at all. Runs every second while there is somebody to look at."""
        before_s = monotonic() - self._idle_ttl_s
        for resident in self._shelf:
            if resident.idle_since_s < before_s:
                self.evictions["idle"] += 1
                self._retire(resident)
            elif not resident.clean(thorough=True) or resident.grown():
                self._retire(resident)
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if len(self._shelf) else None

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_task)

    def _note_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("pool_task_failed", exc_info=error)


def _require_features(spec: VersionSpec, sandbox: Sandbox) -> None:
    """By the receipt, which is complete before anything of the function is read.

    Raises:
        IsolationMissing: the version asks for one that does not stand here.
    """
    missing = sandbox.lacks(spec.require)
    if missing:
        raise IsolationMissing(
            f"{spec.function} requires isolation features that this worker's {sandbox.level} sandboxes do not have: {', '.join(missing)}."
            " See `strict` in docs/sandbox.md for how a machine provides them, or give such functions a tag of workers that do"
        )


def _single_use(spec: VersionSpec) -> bool:
    """Node cannot fork a running program: its `fork` is a new sandbox for each call."""
    return spec.isolation is Isolation.SANDBOX or (spec.isolation is Isolation.FORK and spec.runtime is Runtime.NODE)
