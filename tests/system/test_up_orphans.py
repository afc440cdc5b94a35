"""A child of `sandlot up` dies while a job runs: the parent restarts it, and no job is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.system.up_process import Up
from tests.waiting import until

Start = Callable[..., Up]
SLEEPS = "import time\n\n\ndef handler(event, context):\n    time.sleep(1 if context.attempt > 1 else 60)\n    return context.attempt\n"
MANIFEST = '# /// script\n# [tool.sandlot]\n# timeout = "90s"\n# ///\n'


def test_jobs_of_a_killed_worker_run_again(start_up: Start, tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "sleeps.py").write_text(MANIFEST + SLEEPS)
    up = start_up().ready()
    with up.client() as client:
        job = client.post("/v1/functions/sleeps/invoke", headers={"prefer": "respond-async"}).json()
        address = f"/v1/jobs/{job['id']}"
        until(lambda: client.get(address).json()["status"] == "running")
        os.kill(pid_of(up, b"worker"), signal.SIGKILL)
        up.says("1 job of worker-1 will run again")
        ended = client.get(address, headers={"prefer": "wait=30"}).json()
        assert (ended["status"], ended.get("result"), ended["attempt"]) == ("succeeded", 2, 2), ended


def test_a_killed_valkey_is_restarted_on_its_data(start_up: Start, tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "sleeps.py").write_text(SLEEPS.replace("1 if context.attempt > 1 else 60", "2"))
    up = start_up().ready()
    with up.client() as client:
        job = client.post("/v1/functions/sleeps/invoke", headers={"prefer": "respond-async"}).json()
        os.kill(pid_of(up, b"valkey-server"), signal.SIGKILL)
        up.says("Valkey was ended by SIGKILL")
        address = f"/v1/jobs/{job['id']}"

        def ended() -> bool:
            reply = client.get(address)  # 503 until it is back
            return reply.status_code == 200 and reply.json()["status"] == "succeeded"

        until(ended)
        assert client.get(address).json()["attempt"] == 1
    assert up.stop() == 0
    assert up.processes() == []


def pid_of(up: Up, word: bytes) -> int:
    """The one process of this platform whose command line has an argument that ends like this."""
    found = [
        pid
        for pid in up.processes()
        if any(part.endswith(word) for part in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").split())
    ]
    assert len(found) == 1, found
    return found[0]
