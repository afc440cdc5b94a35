"""How the pool uses sandboxes: which are reused, how long they live, who gets them, and that every invocation is answered once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sandlot.errors import RuntimeUnavailable, SandboxUnavailable, SandlotError, ShuttingDown, VersionNotFound
from sandlot.models import Isolation, OutcomeKind, Runtime
from tests.sandbox.pool_rig import PATIENCE_S, Rig, open_host, open_rig
from tests.waiting import eventually
from worker.execution import VersionSpec
from worker.sandbox.host import SandboxHost
from worker.sandbox.spec import SandboxSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = "n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n\n"
BORN = "import uuid\nborn = str(uuid.uuid4())\ndef handler(event, context):\n    return born\n"
SLEEP = "import time\ndef handler(event, context):\n    print('begun', flush=True)\n    time.sleep(event)\n    return event\n"
ECHO = "def handler(event, context):\n    return event\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host() -> AsyncIterator[SandboxHost]:
    async with open_host() as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def rig(host: SandboxHost) -> AsyncIterator[Rig]:
    async with open_rig(host, prewarmed=2) as rig:
        yield rig


# Isolation.


async def test_reuse_keeps_state_in_one_process(rig: Rig) -> None:
    name = rig.write(COUNT)
    assert [await rig.value(name) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert rig.pool.idle == 1


async def test_fork_gives_each_call_a_copy_of_the_imported_state(rig: Rig) -> None:
    name = rig.write(
        "import uuid\nborn = str(uuid.uuid4())\n" + COUNT.replace("return n", "return [n, born]"),
        isolation=Isolation.FORK,
    )
    answers = [await rig.value(name) for _ in range(5)]
    assert [n for n, _ in answers] == [1] * 5
    assert len({born for _, born in answers}) == 1
    assert rig.pool.idle == 1


async def test_fork_leaves_no_process_of_a_call(host: SandboxHost, rig: Rig) -> None:
    source = "import os, time\ndef handler(event, context):\n    if os.fork() == 0:\n        time.sleep(3600)\n    return sum(p.isdigit() for p in os.listdir('/proc'))\n"
    name = rig.write(source, isolation=Isolation.FORK)
    if host.level != "strict":
        pytest.skip("only a PID namespace lets the template end what a call has left")
    seen = [await rig.value(name) for _ in range(5)]
    assert len(set(seen)) == 1


async def test_sandbox_gives_each_call_everything_new(rig: Rig) -> None:
    source = BORN.replace(
        "return born",
        "made = __import__('os').path.exists('x')\n    open('x', 'w').close()\n    return [born, made]",
    )
    name = rig.write(source, isolation=Isolation.SANDBOX)
    answers = [await rig.value(name) for _ in range(4)]
    assert len({born for born, _ in answers}) == 4
    assert not any(made for _, made in answers)
    assert rig.pool.idle == 0


async def test_versions_share_nothing(rig: Rig) -> None:
    rig.write(COUNT, version=1)
    rig.write(COUNT, version=2)
    assert await rig.value("fn", version=1) == 1
    assert await rig.value("fn", version=2) == 1
    assert await rig.value("fn", version=1) in (1, 2)


async def test_a_new_version_ends_the_idle_processes_of_the_old(rig: Rig) -> None:
    rig.write(COUNT, version=1)
    rig.write(COUNT, version=2)
    await rig.value("fn", version=1)
    await rig.value("fn", version=2)
    assert [instance.spec.version for instance in rig.pool._idle] == [2]


# Values.


@pytest.mark.slow
async def test_six_mebibytes_go_in_and_out(rig: Rig) -> None:
    name = rig.write(ECHO)
    text = "ö" * (3 * 1024 * 1024 - 1)
    event = json.dumps(text, ensure_ascii=False).encode()
    outcome = await rig.run(name, event)
    assert outcome.result == event


async def test_the_context_carries_the_execution(rig: Rig) -> None:
    source = "def handler(event, c):\n    return [c.job_id, c.attempt, c.traceparent, c.client_context.custom, c.function_name, c.function_version, 0 < c.get_remaining_time_in_millis() <= 7000]\n"
    name = rig.write(source, version=3)
    started = rig.start(name, wall_s=7, version=3, traceparent='00-"q"-01', request=b'{"client_context":{"custom":5}}')
    outcome = await started
    assert json.loads(outcome.result) == [started.job_id, 1, '00-"q"-01', 5, "fn", "3", True]  # type: ignore[attr-defined]


async def test_the_environment_is_the_manifests(rig: Rig) -> None:
    name = rig.write(
        "import os\ndef handler(event, context):\n    return os.environ['COLOUR']\n", environment={"COLOUR": "blue"}
    )
    assert await rig.value(name) == "blue"


async def test_an_exception_is_an_error_and_the_process_stays(rig: Rig) -> None:
    name = rig.write(COUNT.replace("return n", "return n if event else {}['k']"))
    outcome = await rig.run(name, False)
    assert outcome.kind is OutcomeKind.ERROR
    assert outcome.error is not None
    assert (outcome.error.error_type, outcome.error.error_message) == ("KeyError", "'k'")
    assert (
        '"/fn/main.py", line 5, in handler' in outcome.error.stack_trace[0] or "main.py" in outcome.error.stack_trace[0]
    )
    assert await rig.value(name, True) == 2


async def test_a_refused_allocation_is_memory_with_evidence_and_the_process_goes(rig: Rig) -> None:
    name = rig.write("def handler(event, context):\n    return len(bytearray(event))\n", memory_limit_mib=64)
    outcome = await rig.run(name, 2 << 30)
    assert outcome.kind is OutcomeKind.MEMORY
    assert outcome.evidence is not None
    assert outcome.evidence.limit == {"memory_mib": 64}
    assert outcome.evidence.peak_memory_bytes
    assert rig.pool.idle == 0
    assert await rig.value(name, 1) == 1


async def test_logs_belong_to_their_invocation_and_the_imports_to_the_first(rig: Rig) -> None:
    name = rig.write("print('import')\ndef handler(event, context):\n    print('call', event)\n")
    assert [(await rig.run(name, n)).logs for n in range(3)] == [b"import\ncall 0\n", b"call 1\n", b"call 2\n"]


async def test_logs_are_capped_by_the_functions_limit(rig: Rig) -> None:
    name = rig.write("def handler(event, context):\n    print('x' * 5000)\n", log_limit_bytes=100)
    assert (await rig.run(name)).logs == b"x" * 100 + b"\n[sandlot] 4901 more bytes were printed; 100 bytes are kept\n"


async def test_timings_and_receipt_distinguish_cold_from_warm(rig: Rig) -> None:
    name = rig.write("import time\ntime.sleep(0.02)\ndef handler(event, context):\n    time.sleep(0.03)\n")
    cold, warm = await rig.run(name), await rig.run(name)
    assert (cold.cold, warm.cold) == (True, False)
    assert cold.timings.import_ >= 20
    assert cold.timings.boot > 0
    assert (warm.timings.boot, warm.timings.import_) == (0, 0)
    assert min(cold.timings.run, warm.timings.run) >= 30
    assert cold.timings.total >= cold.timings.boot + cold.timings.import_ + cold.timings.run
    assert json.loads(warm.receipt)["level"] in ("strict", "restricted")


@pytest.mark.slow
async def test_the_wall_limit_starts_after_the_import(rig: Rig) -> None:
    name = rig.write("import time\ntime.sleep(0.3)\ndef handler(event, context):\n    return 'in time'\n")
    assert await rig.value(name, wall_s=0.2) == "in time"


# Many at once.


@pytest.mark.slow
async def test_invocations_of_one_version_run_at_once(rig: Rig) -> None:
    name = rig.write(SLEEP)
    began_s = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(*(rig.run(name, 0.5) for _ in range(4)))
    assert [outcome.kind for outcome in outcomes] == ["ok"] * 4
    assert asyncio.get_running_loop().time() - began_s < 4 * 0.5
    assert rig.pool.idle == 4


@pytest.mark.slow
async def test_an_instance_that_becomes_free_serves_the_waiting_run(rig: Rig) -> None:
    """Boots are slower than short calls: those that wait are served by whatever comes first, and all are served."""
    name = rig.write(ECHO)
    outcomes = await asyncio.gather(*(rig.run(name, n) for n in range(30)))
    assert [json.loads(outcome.result) for outcome in outcomes] == list(range(30))
    assert rig.pool.busy == 0


async def test_a_busy_version_boots_no_more_processes_than_it_runs_at_once(rig: Rig, host: SandboxHost) -> None:
    """Found by a benchmark: every call that found all processes busy booted another one, a thousand times over."""
    name = rig.write(ECHO)
    booted: list[object] = []
    boot = rig.pool._boot

    async def counting(spec: VersionSpec) -> None:
        booted.append(spec)
        await boot(spec)

    rig.pool._boot = counting  # type: ignore[method-assign]

    async def one_after_the_other() -> None:
        for number in range(50):
            await rig.run(name, number)

    await asyncio.gather(*(one_after_the_other() for _ in range(4)))
    assert len(booted) <= 8


async def test_busy_counts_from_start_to_done(rig: Rig) -> None:
    name = rig.write(ECHO)
    assert rig.pool.busy == 0
    running = rig.start(name, 1)
    assert rig.pool.busy == 1
    await running
    assert rig.pool.busy == 0


async def test_an_invocation_started_from_done_gets_the_same_process(rig: Rig) -> None:
    name = rig.write(COUNT)
    running = rig.start(name)
    second: list[asyncio.Future[object]] = []
    running.add_done_callback(lambda _: second.append(rig.start(name)))  # type: ignore[arg-type]
    await running
    await asyncio.sleep(0)
    outcome = await second[0]
    assert outcome.result == b"2"  # type: ignore[attr-defined]


# Retirement.


async def test_a_process_is_replaced_after_its_number_of_calls(host: SandboxHost) -> None:
    async with open_rig(host, calls_limit=3) as rig:
        name = rig.write(COUNT)
        assert [await rig.value(name) for _ in range(7)] == [1, 2, 3, 1, 2, 3, 1]


async def test_idle_processes_beyond_the_limit_go_oldest_first(host: SandboxHost) -> None:
    async with open_rig(host, idle_limit=2) as rig:
        for name in ("one", "two", "three"):
            await rig.value(rig.write(COUNT, name=name))
        assert [instance.spec.function for instance in rig.pool._idle] == ["two", "three"]


@pytest.mark.slow
async def test_idle_processes_go_when_their_time_is_over(host: SandboxHost) -> None:
    async with open_rig(host, idle_ttl_s=0.2) as rig:
        await rig.value(rig.write(COUNT))
        assert rig.pool.idle == 1
        await eventually(lambda: rig.pool.idle == 0)


@pytest.mark.slow
async def test_a_process_that_grows_is_replaced_before_it_fails(host: SandboxHost) -> None:
    async with open_rig(host) as rig:
        name = rig.write(
            "kept = []\ndef handler(event, context):\n    kept.append(b'x' * 600_000)\n    return len(kept)\n",
            memory_limit_mib=96,
        )
        seen = [await rig.value(name) for _ in range(600)]
    assert 64 < max(seen) < 200
    assert seen.count(1) >= 3


async def test_a_version_is_asked_for_only_when_a_process_is_needed(rig: Rig) -> None:
    name = rig.write(COUNT)
    for _ in range(3):
        await rig.value(name)
    assert rig.asked == [(name, "digest-1")]


# Cancel, abandon, close.


async def begun(rig: Rig, name: str, seconds: float) -> asyncio.Future[object]:
    """An invocation that is known to be running."""
    await rig.run(name, 0)
    running = rig.start(name, seconds)
    await eventually(lambda: not running.done() and rig.pool.idle == 0)
    return running  # type: ignore[return-value]


async def test_cancelling_kills_what_runs(rig: Rig) -> None:
    name = rig.write(SLEEP)
    running = await begun(rig, name, 3600)
    assert rig.pool.cancel(running.job_id)  # type: ignore[attr-defined]
    outcome = await running
    assert outcome.kind is OutcomeKind.CANCELLED  # type: ignore[attr-defined]
    assert not rig.pool.cancel(running.job_id)  # type: ignore[attr-defined]
    assert await rig.value(name, 0) == 0


async def test_cancelling_before_the_start_never_runs_it(rig: Rig) -> None:
    name = rig.write("import os\ndef handler(event, context):\n    os._exit(1)\n")
    waiting = rig.start(name)
    assert rig.pool.cancel(waiting.job_id)  # type: ignore[attr-defined]
    assert (await waiting).kind is OutcomeKind.CANCELLED
    await eventually(lambda: rig.pool.idle == 1)


async def test_an_abandoned_invocation_is_never_done(rig: Rig) -> None:
    name = rig.write(SLEEP)
    running = await begun(rig, name, 3600)
    assert rig.pool.abandon(running.job_id)  # type: ignore[attr-defined]
    assert not rig.pool.abandon(running.job_id)  # type: ignore[attr-defined]
    assert rig.pool.busy == 0
    assert await rig.value(name, 0) == 0
    assert not running.done()


async def test_closing_ends_running_and_waiting_runs(host: SandboxHost) -> None:
    async with open_rig(host) as rig:
        name = rig.write(SLEEP)
        running = await begun(rig, name, 3600)
        waiting = rig.start(name, 1)
    for future in (running, waiting):
        with pytest.raises(ShuttingDown):
            await future


# What the platform gets wrong.


async def test_a_runtime_that_is_not_here_is_our_error(rig: Rig) -> None:
    with pytest.raises(RuntimeUnavailable):
        await rig.run(rig.write("(e) => e", runtime=Runtime.NODE))
    assert rig.pool.busy == 0


async def test_a_version_that_is_not_there_is_our_error(rig: Rig) -> None:
    async def gone(function: str, digest: str) -> None:
        raise VersionNotFound(f"no version {digest} of {function}")

    rig.pool._spec_of = gone  # type: ignore[assignment]
    with pytest.raises(VersionNotFound):
        await rig.run("fn")


async def test_a_bundle_that_vanished_is_our_error(rig: Rig) -> None:
    name = rig.write(ECHO)
    bundle = rig.specs[name, "digest-1"].bundle_dir
    (bundle / "main.py").unlink()
    bundle.rmdir()
    with pytest.raises(SandlotError):
        await rig.run(name, 1)
    assert rig.pool.busy == 0


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [Runtime.PYTHON, Runtime.NODE])
async def test_a_zygote_that_dies_while_a_bundle_is_attached_is_a_platform_error(runtime: Runtime) -> None:
    """Python's runtime has been told to import by then, and waits: its death says nothing about the function."""
    source = ECHO if runtime is Runtime.PYTHON else "(event, context) => event\n"
    async with open_host(node=True) as host, open_rig(host, prewarmed=1) as rig:
        name = rig.write(source, runtime=runtime)
        await eventually(lambda: all(rig.pool._prewarmed._ready.values()))
        zygote = host.zygote_pids()[runtime]
        os.kill(zygote, signal.SIGSTOP)
        asked = rig.start(name, 1)
        await eventually(lambda: rig.pool._importing or not rig.pool._prewarmed._ready[runtime])
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable, match="ended first"):
            async with asyncio.timeout(PATIENCE_S):
                await asked
        assert rig.pool.busy == 0
        await eventually(lambda: host.zygote_pids().get(runtime, zygote) != zygote)
        assert await rig.value(name, 2) == 2


async def test_a_module_sees_the_same_surroundings_during_import_and_in_a_call(rig: Rig) -> None:
    """The import is asked for before the bundle is mounted and the limits are lowered."""
    look = (
        "import os, resource\n"
        "def look():\n"
        "    limits = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT_')}\n"
        "    return [limits, sorted(os.listdir('/proc/self/fd')), sorted(os.listdir('/')), os.getcwd(), dict(os.environ)]\n"
        "seen = look()\n"
        "def handler(event, context):\n"
        "    return seen, look()\n"
    )
    imported, called = await rig.value(rig.write(look))
    assert imported == called
    assert imported[0]["RLIMIT_NOFILE"] == [SandboxSpec().open_files] * 2  # of a blank it is higher


# Nothing is left.


@pytest.mark.slow
async def test_a_thousand_invocations_leave_nothing_behind(host: SandboxHost) -> None:
    def own_fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with open_rig(host, prewarmed=1, calls_limit=100) as rig:
        warm, forked = rig.write(ECHO, name="warm"), rig.write(ECHO, name="forked", isolation=Isolation.FORK)
        leaving = rig.write(
            "import os\ndef handler(event, context):\n    os._exit(0) if event % 7 == 0 else None\n", name="leaving"
        )
        await asyncio.gather(*(rig.run(name, 1) for name in (warm, forked, leaving)))
        await eventually(lambda: rig.pool.idle == 3 and not rig.pool._tasks)
        before = own_fds()
        for batch in range(100):
            numbers = range(batch * 10, batch * 10 + 10)
            names = [warm] * 7 + [forked, forked, leaving]
            await asyncio.gather(*(rig.run(name, n) for name, n in zip(names, numbers, strict=True)))
        for instance in list(rig.pool._idle):
            rig.pool._dispose(instance)
        async with asyncio.timeout(PATIENCE_S):
            while rig.pool.idle != 3:  # one may be retired just then, for the CPU that it used after its answer
                await asyncio.gather(*(rig.run(name, 1) for name in (warm, forked, leaving)))
                await eventually(lambda: not rig.pool._tasks and not rig.pool._prewarmed._refills)
        assert own_fds() <= before
