"""Run every attempt in a sandbox of one level, in a process of its own, and print as JSON what each came to.

    python at_level.py LEVEL UID NODE

As root with another UID, it first gives that user a way to the interpreter and the project (in a mount namespace of its own, nothing on
the machine changes) and becomes that user for good.
"""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
sys.path.insert(0, str(PROJECT))

from worker.sandbox.host import SandboxHost  # noqa: E402
from worker.sandbox.selftest.trial import try_once  # noqa: E402
from worker.sandbox.spec import SandboxSpec, find_node_runtime, find_python_runtime  # noqa: E402
from worker.sandbox.zygote import syscalls  # noqa: E402
from worker.sandbox.zygote.isolation.host_paths import expose  # noqa: E402

BUNDLE = HERE / "bundle"
LIMIT_S = 20.0
GREEDY = {"try_many_processes", "try_many_threads"}
"""They take all processes that one user may have, and at one of the levels all sandboxes are the same user: these go last, one at a time."""


def become(uid, node):
    """Another user, who can get at what the attempts need."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    for fd in expose([sys.base_prefix, str(PROJECT), os.path.realpath(node)]).values():
        os.close(fd)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


async def attempt_all(level, node, targets):
    runtimes = [
        find_python_runtime(PROJECT / "runtimes/python"),
        find_node_runtime(
            PROJECT / "runtimes/node", Path(node), tuple(json.loads((PROJECT / "runtimes/node/flags.json").read_text()))
        ),
    ]
    results = {}
    gate = asyncio.Semaphore(3)
    with tempfile.TemporaryDirectory(prefix="attack-state-") as state:
        os.chmod(state, 0o755)  # noqa: S103 - any uid must get at the bait
        async with await SandboxHost.open(level=level, runtimes=runtimes, state_dir=Path(state)) as host:
            fds_before = len(os.listdir("/proc/self/fd"))

            async def attempt(runtime, name):
                event = {"attempt": name, "targets": targets | {"alone": level == "strict"}}
                async with gate:
                    trial = await try_once(
                        host.prewarm, runtime, BUNDLE, event, spec=SandboxSpec(memory_limit_mib=256), limit_s=LIMIT_S
                    )
                results[f"{runtime}:{name}"] = dataclasses.asdict(trial)

            attempts = names(node)
            await asyncio.gather(*(attempt(runtime, name) for runtime, name in attempts if name not in GREEDY))
            for runtime, name in attempts:
                if name in GREEDY:
                    await attempt(runtime, name)
            fds_after = len(os.listdir("/proc/self/fd"))
    return {"attempts": results, "leaked_fds": fds_after - fds_before}


def names(node):
    sys.path.insert(0, str(BUNDLE))
    import main

    listed = subprocess.run(
        [
            node,
            "-e",
            f"import({json.dumps(str(BUNDLE / 'index.mjs'))}).then((m) => console.log(JSON.stringify(m.names)))",
        ],
        capture_output=True,
        check=True,
        timeout=20,
    )
    return [("python", name) for name in main.attempts()] + [("node", name) for name in json.loads(listed.stdout)]


def main():
    level, uid, node = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if os.geteuid() == 0 and uid != 0:
        become(uid, node)
    os.environ["SANDLOT_CANARY"] = token = "c4n4ry-of-the-worker"
    with tempfile.TemporaryDirectory(prefix="attack-targets-") as folder:
        os.chmod(folder, 0o777)  # noqa: S103 - any uid must get at the bait
        with subprocess.Popen(
            [sys.executable, str(HERE / "victim.py"), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as victim:
            targets = json.loads(victim.stdout.readline()) | {
                "worker_pid": os.getpid(),
                "bundle": "/fn" if level == "strict" else str(BUNDLE),
                "scratch": "/tmp",
            }
            report = asyncio.run(attempt_all(level, node, targets))
            report["victim_alive"] = victim.poll() is None
            report["file_intact"] = (
                Path(targets["victim_file"]).read_text() == token
                and os.stat(targets["victim_file"]).st_mode & 0o777 == 0o666
            )
            victim.stdin.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
