"""The same pool where namespaces are refused: isolation, limits and ends hold there too."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sandlot.errors import IsolationMissing
from sandlot.functions.dependencies import Lock
from sandlot.models import Isolation, OutcomeKind, Runtime
from tests.sandbox.pool_rig import Rig, open_host, open_rig, open_trees
from worker.sandbox.host import SandboxHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = "n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host() -> AsyncIterator[SandboxHost]:
    async with open_host(node=True, level="restricted") as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def rig(host: SandboxHost) -> AsyncIterator[Rig]:
    async with open_rig(host, prewarmed=1) as rig:
        yield rig


@pytest.mark.parametrize(
    ("isolation", "seen"), [(Isolation.REUSE, [1, 2, 3]), (Isolation.FORK, [1, 1, 1]), (Isolation.SANDBOX, [1, 1, 1])]
)
async def test_isolation_is_the_same(rig: Rig, isolation: Isolation, seen: list[int]) -> None:
    name = rig.write(COUNT, isolation=isolation)
    assert [await rig.value(name) for _ in range(3)] == seen


@pytest.mark.parametrize("require", [("strict",), ("seccomp", "strict"), ("pid",)])
async def test_a_function_that_requires_a_missing_feature_gets_its_name(rig: Rig, require: tuple[str, ...]) -> None:
    name = rig.write("raise SystemExit('it was imported')", require=require)
    with pytest.raises(IsolationMissing, match=f"do not have: {require[-1]}"):
        await rig.run(name)
    assert rig.pool.busy == 0


async def test_a_function_that_requires_features_that_are_here_runs(rig: Rig) -> None:
    name = rig.write(COUNT, require=("no_new_privs", "seccomp"))
    assert await rig.value(name) == 1


async def test_a_function_with_network_is_refused_for_good(rig: Rig) -> None:
    name = rig.write(COUNT, network=("example.com",))
    with pytest.raises(IsolationMissing, match="need strict"):
        await rig.run(name)


@pytest.mark.parametrize("runtime", Runtime)
async def test_dependencies_are_not_built_here_and_the_missing_wall_and_the_remedy_are_named(
    host: SandboxHost, runtime: Runtime, tmp_path: Path
) -> None:
    trees = open_trees(host, tmp_path)
    for asked in (trees.sandbox(runtime, 60.0), trees.tree(Lock(runtime=runtime, text=""), "fn")):
        with pytest.raises(IsolationMissing, match=r"network namespace.*strict.*SANDLOT_SANDBOX=restricted asks for"):
            await asked


@pytest.mark.slow
async def test_packages_that_are_in_the_cache_are_found_by_python_and_by_require(rig: Rig) -> None:
    """As docs/functions.md says of a cache folder that is shared with a worker of strict sandboxes."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 -- the sandbox's user is another one
        for path, text in (("greeter.py", "A = 1"), ("node_modules/greeter/index.js", "module.exports = 1")):
            (Path(folder) / path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text)
        given = {"packages_dir": Path(folder)}
        name = rig.write("import greeter\ndef handler(e, c):\n    return greeter.A\n", **given)
        assert await rig.value(name) == 1
        for number, source in enumerate(("() => require('greeter')", "async () => (await import('greeter')).default")):
            name = rig.write(source, runtime=Runtime.NODE, name=f"node-{number}", **given)
            outcome = await rig.run(name)
            assert (outcome.kind == "ok") is (number == 0), outcome


async def test_node_runs_here_too(rig: Rig) -> None:
    name = rig.write("let n = 0\nconst f = () => ++n\n", runtime=Runtime.NODE)
    assert [await rig.value(name) for _ in range(3)] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("python/ignore_signals.py", OutcomeKind.TIMEOUT),
        ("python/stop_itself.py", OutcomeKind.TIMEOUT),
        ("python/eat_memory.py", OutcomeKind.MEMORY),
        ("python/flood.py", OutcomeKind.OUTPUT),
        ("python/exit_status.py", OutcomeKind.EXIT),
        ("python/segfault.py", OutcomeKind.SIGNAL),
        ("python/forge_twice.py", OutcomeKind.BAD_RESULT),
        ("node/promise_chain.js", OutcomeKind.TIMEOUT),
        ("node/exit_override.js", OutcomeKind.TIMEOUT),
    ],
)
async def test_ends_are_the_same(rig: Rig, path: str, kind: OutcomeKind) -> None:
    name = rig.write_file(path)
    assert await rig.value(name, "behave") == "ok"
    outcome = await rig.run(name, 1, wall_s=0.5 if kind is OutcomeKind.TIMEOUT else 20.0)
    assert outcome.kind is kind, outcome
    assert json.loads(outcome.receipt)["level"] == "restricted"
    assert await rig.value(name, "behave") == "ok"


async def test_a_process_that_a_call_leaves_behind_is_the_end_of_its_sandbox(rig: Rig) -> None:
    name = rig.write_file("python/eat_next_request.py")
    assert await rig.value(name, 1) == "armed"
    assert await rig.value(name, "behave") == "ok"
