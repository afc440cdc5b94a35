"""Every misdeed of `tests/functions` ends as it has to, in time, and hurts nobody: neither the next invocation nor the worker."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from sandlot.models import OutcomeKind
from sandlot.offload import OFFLOAD_BYTES
from tests.sandbox.pool_rig import PATIENCE_S, Rig, open_host, open_rig
from tests.waiting import eventually
from worker.pool import verdict
from worker.sandbox.host import SandboxHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

WALL_S = 0.5
K = OutcomeKind


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host() -> AsyncIterator[SandboxHost]:
    async with open_host(node=True) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def rig(host: SandboxHost) -> AsyncIterator[Rig]:
    async with open_rig(host, prewarmed=1) as rig:
        yield rig


MISDEEDS: list[tuple[str, Any, OutcomeKind]] = [
    ("python/loop.py", 1, K.TIMEOUT),
    ("python/ignore_signals.py", 1, K.TIMEOUT),
    ("python/sleep.py", 1, K.TIMEOUT),
    ("python/async_hang.py", 1, K.TIMEOUT),
    ("python/stop_itself.py", 1, K.TIMEOUT),
    ("python/daemonise.py", 1, K.TIMEOUT),
    ("python/half_frame.py", 1, K.TIMEOUT),
    ("python/trickle.py", 1, K.TIMEOUT),
    ("python/eat_memory.py", 1, K.MEMORY),
    ("python/flood.py", 1, K.OUTPUT),
    ("python/exit_status.py", 3, K.EXIT),
    ("python/sys_exit.py", 4, K.EXIT),
    ("python/segfault.py", 1, K.SIGNAL),
    ("python/abort.py", 1, K.SIGNAL),
    ("python/kill_itself.py", 9, K.SIGNAL),
    ("python/close_control.py", 1, K.BAD_RESULT),
    ("python/shutdown_control.py", 1, K.BAD_RESULT),
    ("python/garbage.py", 1, K.BAD_RESULT),
    ("python/huge_length.py", 1, K.BAD_RESULT),
    ("python/forge_two_at_once.py", 1, K.BAD_RESULT),
    ("python/forge_not_json.py", 1, K.BAD_RESULT),
    ("python/deep_result.py", 1, K.BAD_RESULT),
    ("node/busy_loop.js", 1, K.TIMEOUT),
    ("node/promise_chain.js", 1, K.TIMEOUT),
    ("node/exit_override.js", 1, K.TIMEOUT),
    ("node/next_tick.js", 1, K.TIMEOUT),
    ("node/timers.js", 1, K.TIMEOUT),
    ("node/buffers.js", 1, K.MEMORY),
    ("node/flood.js", 1, K.OUTPUT),
    ("node/exit_status.js", 3, K.EXIT),
    ("node/close_control.js", 1, K.BAD_RESULT),
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "event", "kind"), MISDEEDS, ids=[path for path, _, _ in MISDEEDS])
async def test_a_misdeed_ends_as_it_has_to_and_the_next_invocation_works(
    rig: Rig, path: str, event: object, kind: OutcomeKind
) -> None:
    name = rig.write_file(path)
    assert await rig.value(name, "behave") == "ok"
    wall_s = WALL_S if kind is K.TIMEOUT else 20.0
    outcome = await rig.run(name, event, wall_s=wall_s)
    assert outcome.kind is kind, outcome
    assert outcome.error is not None
    assert outcome.result == b""
    assert await rig.value(name, "behave") == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["python/ignore_signals.py", "python/stop_itself.py", "node/promise_chain.js"])
async def test_the_wall_limit_is_enforced_within_250_ms(rig: Rig, path: str) -> None:
    name = rig.write_file(path)
    await rig.run(name, "behave")
    outcome = await rig.run(name, 1, wall_s=WALL_S)
    assert outcome.evidence is not None
    assert outcome.evidence.limit == {"wall_s": WALL_S}
    assert WALL_S <= outcome.evidence.measured["wall_s"] < WALL_S + 0.25
    assert outcome.timings.total < (WALL_S + 0.25) * 1000


@pytest.mark.slow
async def test_a_chain_of_nested_promises_ends_at_whichever_limit_it_meets_first(rig: Rig) -> None:
    """`() => Promise.resolve().then(f)` keeps every promise it made: it fills 256 MiB in about half a second."""
    name = rig.write_file("node/nested_promises.js")
    assert (await rig.run(name, 1, wall_s=5.0)).kind in (K.TIMEOUT, K.MEMORY)
    assert (await rig.run(name, 1, wall_s=0.05)).kind is K.TIMEOUT
    assert await rig.value(name, "behave") == "ok"


# The heap needs its limit among Node's flags, so what fills first differs from machine to machine: never the worker's memory.
@pytest.mark.slow
async def test_a_full_heap_is_the_end_of_that_process_only(rig: Rig) -> None:
    name = rig.write_file("node/heap.js", memory_limit_mib=128)
    outcome = await rig.run(name, 1)
    assert outcome.kind in (K.MEMORY, K.SIGNAL)
    assert await rig.value(name, "behave") == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("python/loop.py", ["in handler", "in spin"]),
        ("node/busy_loop.js", ["/fn/index.js"]),
    ],
)
async def test_a_timeout_names_the_line_that_was_running(rig: Rig, path: str, words: list[str]) -> None:
    name = rig.write_file(path)
    for _ in range(10):  # it is asked for shortly before the kill, which waits for no answer
        outcome = await rig.run(name, 1, wall_s=WALL_S)
        assert outcome.evidence is not None
        if len(outcome.evidence.stack) == len(words):
            break
    assert [word for word, frame in zip(words, outcome.evidence.stack, strict=True) if word in frame] == words
    assert b"KEYBOARD_INTERRUPT" not in outcome.logs


async def test_exit_status_and_signal_are_the_kernels_word(rig: Rig) -> None:
    outcome = await rig.run(rig.write_file("python/exit_status.py"), 42)
    assert outcome.evidence is not None
    assert outcome.evidence.exit_code == 42
    outcome = await rig.run(rig.write_file("python/kill_itself.py"), 11)
    assert outcome.evidence is not None
    assert outcome.evidence.signal == "SIGSEGV"
    assert outcome.evidence.peak_memory_bytes
    assert outcome.evidence.cpu_ms


async def test_output_before_the_end_is_kept(rig: Rig) -> None:
    name = rig.write("import os\ndef handler(event, context):\n    print('last words')\n    os._exit(1)\n")
    assert (await rig.run(name)).logs == b"last words\n"


async def test_printing_is_never_answering(rig: Rig) -> None:
    outcome = await rig.run(rig.write_file("python/speak_of_answers.py"), 1)
    assert outcome.result == b'"real"'
    assert b"forged" in outcome.logs


async def test_a_flood_is_counted_and_capped(rig: Rig) -> None:
    outcome = await rig.run(rig.write_file("python/flood.py"), 1)
    assert outcome.evidence is not None
    assert outcome.evidence.measured["output_bytes"] > outcome.evidence.limit["output_bytes"]
    assert len(outcome.logs) < 70_000
    assert outcome.logs.rstrip().endswith(b"are kept")


# Forged answers: what a function writes by hand can at most be its own answer to this request, and never anything else.


@pytest.mark.parametrize("path", ["python/forge_twice.py", "node/forge_twice.js"])
async def test_a_forged_answer_is_ignored(rig: Rig, path: str) -> None:
    name = rig.write_file(path)
    assert (await rig.run(name, 1)).kind is K.BAD_RESULT
    assert await rig.value(name, "behave") == "ok"


@pytest.mark.slow
async def test_an_answer_by_hand_with_the_right_ticket_is_not_followed_by_another(rig: Rig) -> None:
    name = rig.write_file("python/forge_with_ticket.py")
    for _ in range(10):
        outcome = await rig.run(name, 1)
        assert (outcome.kind, outcome.result) in [(K.OK, b'"forged"'), (K.BAD_RESULT, b"")]
        # Whether the runtime's own answer is there yet or still to come: it is never this request's.
        outcome = await rig.run(name, "behave")
        assert (outcome.kind, outcome.result) in [(K.OK, b'"ok"'), (K.BAD_RESULT, b"")]


async def test_an_answer_left_for_the_next_request_is_never_read(rig: Rig) -> None:
    name = rig.write_file("python/forge_early.py")
    assert await rig.value(name, 1) == "armed"
    await eventually(lambda: rig.pool.idle == 0)
    assert await rig.value(name, "behave") == "ok"


async def test_a_child_that_waits_for_the_next_request_gets_none(rig: Rig) -> None:
    name = rig.write_file("python/eat_next_request.py")
    assert await rig.value(name, 1) == "armed"
    assert await rig.value(name, "behave") == "ok"


@pytest.mark.slow
async def test_a_process_that_computes_after_its_answer_is_retired(rig: Rig) -> None:
    name = rig.write_file("python/burn_after.py")
    assert await rig.value(name, 1) == "burning"
    await eventually(lambda: rig.pool.idle == 0)


async def test_a_process_that_dies_after_its_answer_is_replaced(rig: Rig) -> None:
    name = rig.write_file("python/die_after.py")
    assert await rig.value(name, 1) == "dying"
    await eventually(lambda: rig.pool.idle == 0)
    assert await rig.value(name, "behave") == "ok"


class HeldCheck:
    """The check of large answers, stopped until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        check = verdict.of_answer

        def held(kind: bytes, body: bytes) -> verdict.Verdict:
            if len(body) > OFFLOAD_BYTES:
                self.began.set()
                self.go_on.wait(PATIENCE_S)
            return check(kind, body)

        monkeypatch.setattr(verdict, "of_answer", held)


LONG = "def handler(event, context):\n    return 'x' * 1_000_000"


async def test_a_long_answer_counts_although_its_process_ends_while_it_is_checked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, name = HeldCheck(monkeypatch), rig.write(LONG)
    outcome = rig.start(name)
    await eventually(held.began.is_set)
    (instance,) = rig.pool._instances()
    instance.sandbox.kill()
    await instance.sandbox.ended()
    held.go_on.set()
    assert json.loads((await outcome).result) == "x" * 1_000_000
    await eventually(lambda: (rig.pool.busy, rig.pool.idle) == (0, 0))
    assert json.loads((await rig.run(name)).result) == "x" * 1_000_000


async def test_a_call_that_is_cancelled_while_its_answer_is_checked_ends_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, name = HeldCheck(monkeypatch), rig.write(LONG)
    outcome = rig.start(name)
    await eventually(held.began.is_set)
    assert rig.pool.cancel(outcome.job_id)  # type: ignore[attr-defined]
    assert (await outcome).kind is K.CANCELLED
    held.go_on.set()
    await eventually(lambda: (rig.pool.busy, rig.pool.idle) == (0, 0))


async def test_an_instance_serves_no_other_run_while_its_result_is_checked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, name = HeldCheck(monkeypatch), rig.write(LONG)
    first = rig.start(name)
    await eventually(held.began.is_set)
    assert rig.pool.idle == 0
    second = rig.start(name)
    held.go_on.set()
    assert {(await first).kind, (await second).kind} == {K.OK}


async def test_descriptors_sent_with_an_answer_do_not_arrive(rig: Rig) -> None:
    name = rig.write_file("python/pass_descriptors.py")
    await rig.run(name, "behave")
    before = set(os.listdir("/proc/self/fd"))
    assert (await rig.run(name, 1)).kind is K.BAD_RESULT
    after = {fd for fd in os.listdir("/proc/self/fd") if fd not in before}
    assert not any(_links_to("/dev/null", fd) for fd in after)


def _links_to(target: str, fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == target
    except OSError:
        return False  # the one that listed the folder


# Imports.


@pytest.mark.slow
async def test_an_import_that_hangs_is_a_timeout_of_its_own(host: SandboxHost) -> None:
    async with open_rig(host, import_limit_s=0.3) as rig:
        outcome = await rig.run(rig.write_file("python/import_hangs.py"))
    assert outcome.kind is K.TIMEOUT
    assert outcome.evidence is not None
    assert outcome.evidence.limit == {"import_s": 0.3}


async def test_an_import_that_leaves_is_an_exit(rig: Rig) -> None:
    outcome = await rig.run(rig.write_file("python/import_exits.py"))
    assert outcome.kind is K.EXIT
    assert outcome.evidence is not None
    assert outcome.evidence.exit_code == 7


@pytest.mark.parametrize("source", ["def handler(event, context)\n", "import nothing_like_it\n", "x = 1\n"])
async def test_an_import_that_fails_is_an_import_error(rig: Rig, source: str) -> None:
    outcome = await rig.run(rig.write(source))
    assert outcome.kind is K.IMPORT_ERROR
    assert outcome.error is not None
    assert outcome.error.error_message
