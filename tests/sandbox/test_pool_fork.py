"""`isolation = "fork"` in real sandboxes: what a call does in its child ends as it has to, and the next call has a child of its own.

A child that closes its socket and runs on is a timeout (`runtimes/PROTOCOL.md`, "fork"), where a process that answers by itself has
interfered with its control descriptor. Everything else ends as with `reuse`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from sandlot.models import Isolation, OutcomeKind
from tests.sandbox.pool_rig import Rig, open_host, open_rig
from worker.sandbox.host import SandboxHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

WALL_S = 0.5
K = OutcomeKind


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["strict", "restricted"])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[SandboxHost]:
    async with open_host(level=request.param) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def rig(host: SandboxHost) -> AsyncIterator[Rig]:
    async with open_rig(host, prewarmed=1) as rig:
        yield rig


MISDEEDS: list[tuple[str, Any, OutcomeKind]] = [
    ("python/ignore_signals.py", 1, K.TIMEOUT),
    ("python/stop_itself.py", 1, K.TIMEOUT),
    ("python/half_frame.py", 1, K.TIMEOUT),
    ("python/trickle.py", 1, K.TIMEOUT),
    ("python/close_control.py", 1, K.TIMEOUT),
    ("python/eat_memory.py", 1, K.MEMORY),
    ("python/exit_status.py", 3, K.EXIT),
    ("python/sys_exit.py", 4, K.EXIT),
    ("python/segfault.py", 1, K.SIGNAL),
    ("python/garbage.py", 1, K.BAD_RESULT),
    ("python/huge_length.py", 1, K.BAD_RESULT),
    ("python/forge_two_at_once.py", 1, K.BAD_RESULT),
    ("python/forge_twice.py", 1, K.BAD_RESULT),
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "event", "kind"), MISDEEDS, ids=[path for path, _, _ in MISDEEDS])
async def test_a_misdeed_ends_as_it_has_to_and_the_next_invocation_works(
    rig: Rig, path: str, event: object, kind: OutcomeKind
) -> None:
    name = rig.write_file(path, isolation=Isolation.FORK)
    assert await rig.value(name, "behave") == "ok"
    outcome = await rig.run(name, event, wall_s=WALL_S if kind is K.TIMEOUT else 20.0)
    assert outcome.kind is kind, outcome
    assert outcome.error is not None
    assert outcome.result == b""
    assert await rig.value(name, "behave") == "ok"


async def test_exit_status_and_signal_of_the_child_are_the_kernels_word(rig: Rig) -> None:
    outcome = await rig.run(rig.write_file("python/exit_status.py", isolation=Isolation.FORK), 42)
    assert outcome.evidence is not None
    assert outcome.evidence.exit_code == 42
    outcome = await rig.run(rig.write_file("python/kill_itself.py", isolation=Isolation.FORK), 11)
    assert outcome.evidence is not None
    assert outcome.evidence.signal == "SIGSEGV"
    assert outcome.evidence.peak_memory_bytes
    assert outcome.evidence.cpu_ms


async def test_a_call_that_kills_its_template_ends_with_it(rig: Rig) -> None:
    name = rig.write(
        "import os, time\ndef handler(event, context):\n"
        "    if event: os.kill(os.getppid(), 9); time.sleep(3600)\n"
        "    return 'ok'\n",
        isolation=Isolation.FORK,
    )
    assert (await rig.run(name, 1)).kind is K.SIGNAL
    assert await rig.value(name, 0) == "ok"


async def test_a_call_that_stops_its_template_costs_the_next_a_moment(rig: Rig) -> None:
    name = rig.write(
        "import os, signal\nborn = os.urandom(8).hex()\ndef handler(event, context):\n"
        "    if event: os.kill(os.getppid(), signal.SIGSTOP)\n"
        "    return born\n",
        isolation=Isolation.FORK,
    )
    stopped = await rig.value(name, 1)
    second = await rig.run(name, 0)
    assert second.kind is K.OK, second
    assert json.loads(second.result) != stopped
    assert await rig.value(name, 0) == json.loads(second.result)


@pytest.mark.slow
async def test_the_time_of_a_request_that_nobody_reads_ends_at_the_second_process(rig: Rig) -> None:
    """As of a module that keeps its own runtime from serving."""
    name = rig.write(
        "import os, time\nfork = os.fork\nos.fork = lambda: fork() or time.sleep(3600)\n"
        "def handler(event, context):\n    return 1\n",
        isolation=Isolation.FORK,
    )
    outcome = await rig.run(name, wall_s=WALL_S)
    assert outcome.kind is K.TIMEOUT
    assert outcome.timings.total > 2 * WALL_S * 1000


async def test_the_limits_of_its_template_are_not_a_calls_to_lower(rig: Rig) -> None:
    name = rig.write(
        "import os, resource\ndef handler(event, context):\n"
        "    try: resource.prlimit(os.getppid(), resource.RLIMIT_NPROC, (0, 0))\n"
        "    except PermissionError as error: return str(error)\n",
        isolation=Isolation.FORK,
    )
    assert await rig.value(name) == await rig.value(name) == "[Errno 1] Operation not permitted"


@pytest.mark.slow
async def test_a_child_that_leaves_its_session_is_ended_by_the_limit(host: SandboxHost, rig: Rig) -> None:
    name = rig.write_file("python/daemonise.py", isolation=Isolation.FORK)
    refused = host.level == "restricted"  # its filter has no setsid
    assert (await rig.run(name, 1, wall_s=WALL_S)).kind is (K.ERROR if refused else K.TIMEOUT)
    assert await rig.value(name, "behave") == "ok"


@pytest.mark.slow
async def test_a_child_that_ends_while_another_keeps_its_socket_has_until_the_limit(rig: Rig) -> None:
    name = rig.write(
        "import os, time\ndef handler(event, context):\n"
        "    if not event: return 'ok'\n"
        "    if os.fork() == 0: time.sleep(3600)\n"
        "    os._exit(5)\n",
        isolation=Isolation.FORK,
    )
    assert (await rig.run(name, 1, wall_s=WALL_S)).kind is K.TIMEOUT
    assert await rig.value(name, 0) == "ok"


@pytest.mark.parametrize("path", ["python/die_after.py", "python/burn_after.py", "python/forge_early.py"])
async def test_work_after_the_answer_ends_with_the_child(rig: Rig, path: str) -> None:
    name = rig.write_file(path, isolation=Isolation.FORK)
    assert (await rig.run(name, 1)).kind is K.OK
    outcome = await rig.run(name, "behave")
    assert (outcome.result, outcome.cold) == (b'"ok"', False)


async def test_a_child_has_the_descriptors_of_the_protocol_and_a_socket_of_its_own(rig: Rig) -> None:
    name = rig.write(
        "import os\n"
        "def inode(fd):\n"
        "    try: return os.fstat(fd).st_ino\n"
        "    except OSError: return None\n"
        "control = inode(3)\n"
        "def handler(event, context):\n"
        "    return control, {fd: inode(fd) for fd in range(1024) if inode(fd)}\n",
        isolation=Isolation.FORK,
    )
    sockets = set()
    for _ in range(3):
        control, held = await rig.value(name)
        assert sorted(held) == ["0", "1", "2", "3", "4"]
        assert control not in held.values()
        sockets.add(held["3"])
    assert len(sockets) == 3


async def test_a_child_left_behind_reads_no_later_request(rig: Rig) -> None:
    name = rig.write_file("python/eat_next_request.py", isolation=Isolation.FORK)
    assert await rig.value(name, 1) == "armed"
    for _ in range(3):
        assert await rig.value(name, "behave") == "ok"


@pytest.mark.slow
async def test_large_events_and_results_pass(rig: Rig) -> None:
    name = rig.write("def handler(event, context):\n    return event\n", isolation=Isolation.FORK)
    event = b'"' + b"x" * (6 * 1024 * 1024 - 2) + b'"'
    for _ in range(2):
        assert (await rig.run(name, event)).result == event
