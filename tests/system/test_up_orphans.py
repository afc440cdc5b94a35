"""A worker of `sandlot up` dies while it runs a job: the parent, who saw it, has the job run again without waiting for its lease."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.system.up_process import Up, until

Start = Callable[..., Up]
SLEEPS = "import time\n\n\ndef handler(event, context):\n    time.sleep(1 if context.attempt > 1 else 60)\n    return context.attempt\n"
MANIFEST = '# /// script\n# [tool.sandlot]\n# timeout = "90s"\n# ///\n'


def test_what_a_killed_worker_ran_is_run_again_by_whoever_saw_it_die(start_up: Start, tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "sleeps.py").write_text(MANIFEST + SLEEPS)
    up = start_up().ready()
    with up.client() as client:
        job = client.post("/v1/functions/sleeps/invoke", headers={"prefer": "respond-async"}).json()
        address = f"/v1/jobs/{job['id']}"
        until(lambda: client.get(address).json()["status"] == "running")
        os.kill(worker_pid(up), signal.SIGKILL)
        up.says("1 job of worker-1 will run again")
        ended = client.get(address, headers={"prefer": "wait=30"}).json()
        assert (ended["status"], ended.get("result"), ended["attempt"]) == ("succeeded", 2, 2), ended


def worker_pid(up: Up) -> int:
    workers = [pid for pid in up.processes() if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes() + b"\0"]
    assert len(workers) == 1, workers
    return workers[0]
