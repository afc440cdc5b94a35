"""Run every attempt with no sandbox at all, each in a process of its own, and print as JSON what each got: the proof that it is real.

    python bare.py NODE

Needs root. Started behind a cgroup limit by its caller. Mounts and the host name are private to each attempt, so that success harms nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = HERE / "bundle"
sys.path.insert(0, str(HERE.parents[2]))
sys.path.insert(0, str(BUNDLE))

import main  # noqa: E402

from worker.sandbox.zygote import syscalls  # noqa: E402

LIMIT_S = 30
NODE_PROGRAM = """
import(process.argv[1]).then(async (module) => {
  const event = JSON.parse(process.argv[2]);
  process.stdout.write("\\n" + JSON.stringify(await module.handler(event)), () => process.exit(0));
});
"""


def run_python(name, targets):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/", os.O_RDONLY | os.O_DIRECTORY), 9)  # what a careless launcher leaves open
            syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            os.chdir(targets["scratch"])
            os.write(write, json.dumps(main.handler({"attempt": name, "targets": targets}, None)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(text) if text else {"got": None, "why": f"ended with {os.waitstatus_to_exitcode(status)}"}


def run_node(node, name, targets):
    event = json.dumps({"attempt": name, "targets": targets})
    done = subprocess.run(
        [node, "-e", NODE_PROGRAM, "--", targets["bundle"] + "/index.mjs", event],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {"got": None, "why": done.stderr[-300:]}


def attempt_all(node, targets):
    listed = subprocess.run(
        [
            node,
            "-e",
            f"import({json.dumps(str(BUNDLE / 'index.mjs'))}).then((m) => console.log(JSON.stringify(m.names)))",
        ],
        capture_output=True,
        check=True,
        timeout=LIMIT_S,
    )
    results = {f"python:{name}": run_python(name, targets) for name in main.attempts()}
    return results | {f"node:{name}": run_node(node, name, targets) for name in json.loads(listed.stdout)}


def run():
    node = sys.argv[1]
    os.environ["SANDLOT_CANARY"] = "c4n4ry-of-the-worker"
    with tempfile.TemporaryDirectory(prefix="attack-bare-") as folder:
        os.mkdir(f"{folder}/scratch")
        shutil.copytree(BUNDLE, f"{folder}/bundle")
        with subprocess.Popen(
            [sys.executable, str(HERE / "victim.py"), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as victim:
            targets = json.loads(victim.stdout.readline())
            targets |= {
                "worker_pid": os.getpid(),
                "bundle": f"{folder}/bundle",
                "scratch": f"{folder}/scratch",
                "alone": False,
            }
            results = attempt_all(node, targets)
            victim.stdin.close()
    print(json.dumps(results))


if __name__ == "__main__":
    run()
