"""Nothing stays: no process, zombie, mount, cgroup, descriptor, file or memory of a secret."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from sandlot.errors import SandboxUnavailable
from tests.sandbox.level_rig import PATIENCE_S, bundle, open_level, processes_of
from tests.waiting import HANG_S
from worker.sandbox.host import SandboxHost
from worker.sandbox.selftest.trial import try_once
from worker.sandbox.spec import find_python_runtime
from worker.sandbox.zygote import protocol
from worker.sandbox.zygote_client import ENVIRONMENT, PROGRAM

SPAWNS = int(os.environ.get("SANDLOT_TEST_SANDBOXES", "1500"))
"""Half of them at each level; `make test-leaks` makes 10,000."""
AT_ONCE = 4
CALL_EVERY = 25
LITTER = """
import os, signal, tempfile, time
def handler(event, context):
    open(tempfile.mkstemp(dir=os.environ["HOME"])[1], "w").write("left behind")
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
        if os.fork() == 0:
            while True: time.sleep(60)
        os._exit(0)
    return "left"
"""
REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIMES = REPOSITORY / "runtimes"
ZYGOTE = REPOSITORY / "worker" / "sandbox"


def cgroups_of(pid: int) -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/sandlot-{pid}-*") if path.is_dir()}


def folders_of(pid: int) -> list[str]:
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("sandlot-") and f"-{pid}-" in name]


def children_of(pid: int) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.append(name)
    return found


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def zygote_of(host: SandboxHost) -> int:
    return host.zygote_pids()["python"]


def state_of(host: SandboxHost) -> dict[str, int]:
    pid = zygote_of(host)
    return {
        "worker descriptors": len(os.listdir("/proc/self/fd")),
        "zygote descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "zygote children": len(children_of(pid)),
        "mounts": len([line for line in Path("/proc/self/mounts").read_text().splitlines() if "sandlot" in line]),
        "zygote mounts": len(Path(f"/proc/{pid}/mounts").read_text().splitlines()),
        "files": sum(1 for _ in host._folder.rglob("*")) + len(folders_of(pid)),
    }


@pytest.mark.slow
@pytest.mark.timeout(max(150, SPAWNS // 10))
@pytest.mark.parametrize("level", ["strict", "restricted"])
async def test_many_sandboxes_leave_nothing(level: str, tmp_path: Path) -> None:
    litter = bundle(tmp_path, LITTER)
    async with open_level(level) as host:
        pid = zygote_of(host)
        await asyncio.gather(*(spawn_and_end(host, 5, litter) for _ in range(AT_ONCE)))  # as many slots as will be used
        before = state_of(host)
        await asyncio.gather(*(spawn_and_end(host, SPAWNS // 2 // AT_ONCE, litter) for _ in range(AT_ONCE)))
        after = state_of(host)
    assert not {name: (before[name], count) for name, count in after.items() if count > before[name]}
    assert not cgroups_of(pid)


async def spawn_and_end(host: SandboxHost, count: int, litter: Path) -> None:
    """Most are killed as blanks; the others after a call that leaves files and a daemon."""
    for number in range(count):
        if number % CALL_EVERY == 0:
            assert (await try_once(host.prewarm, "python", litter, None, limit_s=PATIENCE_S)).answer == "left"
            continue
        sandbox = await host.prewarm("python")
        sandbox.kill()
        await sandbox.ended()
        sandbox.close()


@pytest.mark.parametrize("level", ["strict", "restricted"])
async def test_an_unclosed_sandbox_ends_with_the_host(level: str) -> None:
    async with open_level(level) as host:
        sandbox = await host.prewarm("python")
        pids = processes_of(sandbox)
    assert not alive(pids)
    sandbox.close()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["strict", "restricted"])
async def test_a_killed_zygote_takes_only_its_own_and_is_replaced(level: str, tmp_path: Path) -> None:
    async with open_level(level) as host:
        sandbox = await host.prewarm("python")
        pids = processes_of(sandbox)
        os.kill(zygote_of(host), signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            end = await sandbox.ended()
            await until_gone(pids)
            trial = await try_once(host.prewarm, "python", bundle(tmp_path, "def handler(e, c): return e"), 7)
        assert end.signal == signal.SIGKILL
        assert trial.answer == 7
        sandbox.close()


@pytest.mark.slow
async def test_a_zygote_whose_fork_server_was_killed_is_replaced(tmp_path: Path) -> None:
    async with open_level("strict") as host:
        sandbox = await host.prewarm("python")
        pids = processes_of(sandbox)
        zygote = zygote_of(host)
        (mould,) = {int(pid) for pid in children_of(zygote)} - {sandbox.pid}
        os.kill(mould, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            await sandbox.ended()
            await until_gone([*pids, mould, zygote])
            trial = await try_once(host.prewarm, "python", bundle(tmp_path, "def handler(e, c): return e"), 7)
        assert trial.answer == 7
        assert zygote_of(host) != zygote
        sandbox.close()


@pytest.mark.slow
async def test_a_request_under_way_fails_with_its_zygote() -> None:
    async with open_level("strict") as host:
        pid = zygote_of(host)
        os.kill(pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(host.prewarm("python"))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable, match="died"):
            await asked


async def until_gone(pids: list[int]) -> None:
    while alive(pids):  # noqa: ASYNC110 - the condition is another process's
        await asyncio.sleep(0.002)


ABANDONED_WORKER = textwrap.dedent("""
    import asyncio, os, signal, sys
    from tests.sandbox.level_rig import open_level, processes_of
    async def main():
        async with open_level(sys.argv[1]) as host:
            sandbox = await host.prewarm("python")
            (zygote,) = host.zygote_pids().values()
            with open(f"/proc/{zygote}/task/{zygote}/children") as children:
                print(*processes_of(sandbox), zygote, *children.read().split(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(main())
""")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["strict", "restricted"])
def test_a_killed_worker_leaves_nothing_running_and_no_cgroup(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED_WORKER, level], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) >= 2, done.stderr
    deadline_s = time.monotonic() + PATIENCE_S
    while alive(pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    assert not [found for pid in pids for found in (*cgroups_of(pid), *folders_of(pid))]


@pytest.mark.slow
async def test_cgroups_of_a_killed_zygote_are_removed_by_the_next() -> None:
    async with open_level("strict") as host:
        sandbox = await host.prewarm("python")
        pid, inside = zygote_of(host), processes_of(sandbox)
        if not cgroups_of(pid):
            pytest.skip("no cgroup can be made here")
        os.kill(pid, signal.SIGKILL)
        await sandbox.ended()
        async with asyncio.timeout(PATIENCE_S):
            await until_gone(inside)
        sandbox.close()
        await (await host.prewarm("python")).kill_and_wait()
        assert not cgroups_of(pid)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root")
@pytest.mark.parametrize("level", ["strict", "restricted"])
async def test_no_secret_of_the_worker_is_in_memory_inside(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2024-21626's sibling: what the launcher knows, the function can find in its own memory."""
    secret = "k3y-0f-the-" + "worker-5f1d"
    monkeypatch.setenv("SANDLOT_SIGNING_KEY", secret)
    async with open_level(level) as host:
        sandbox = await host.prewarm("python")
        assert holds(os.getpid(), secret)
        for pid in (*processes_of(sandbox), zygote_of(host)):
            assert not holds(pid, secret)
            assert secret not in environment_of(pid)
        sandbox.kill()
        await sandbox.ended()
        sandbox.close()


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def holds(pid: int, secret: str) -> bool:
    with (
        open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
    ):
        for line in maps:
            span, mode, *_rest = line.split()
            if not mode.startswith("rw"):
                continue
            first, last = (int(part, 16) for part in span.split("-"))
            memory.seek(first)
            try:
                if secret.encode() in memory.read(last - first):
                    return True
            except OSError:
                continue  # a region of the kernel's
    return False


@pytest.mark.slow
@pytest.mark.parametrize("told", [False, True], ids=["before its plan", "after it"])
def test_a_zygote_whose_worker_ends_during_its_start_ends_silently(tmp_path: Path, told: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    runtime = find_python_runtime(RUNTIMES / "python")
    with theirs:
        process = subprocess.Popen(
            [runtime.interpreter, "-I", "-c", PROGRAM, str(ZYGOTE), str(theirs.fileno())],
            env=ENVIRONMENT,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    if told:
        plan = {
            "runtime": runtime.name, "folder": str(runtime.folder), "command": runtime.command, "preload": [],
            "reserved_mib": runtime.reserved_mib, "level": "restricted", "state_dir": str(tmp_path), "uid_base": 0, "missing": [],
        }  # fmt: skip
        protocol.send(ours, plan)
    ours.close()
    _, said = process.communicate(timeout=HANG_S)
    assert (process.returncode, said) == (0, b"")
