"""deploy/systemd under a running systemd.

The worker's limits are cgroups v2, and a process that ends is replaced, drained and cleaned up.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Final

import pytest

from tests.containers.engine import REPOSITORY
from tests.systemd.machine import Machine

pytestmark = pytest.mark.timeout(1800)

ASK: Final = "python3 /usr/local/lib/ask.py"
WORKER: Final = "sandlot-worker@1"
GROUP: Final = r"/sys/fs/cgroup/system.slice/system-sandlot\x2dworker.slice/sandlot-worker@1.service"
CALM: Final = "async def handler(event, context):\n    return event\n"
TOGETHER: Final = """
# /// script
# [tool.sandlot]
# memory = "64 MiB"
# timeout = "60 s"
# ///
import os, time

def handler(event, context):
    for _ in range(4):  # each holds less than the limit
        if os.fork() == 0:
            held = bytearray(40 << 20)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(30)
            os._exit(0)
    for _ in range(4):
        os.wait()
    return "all four had it"
"""
FORKS: Final = """
# /// script
# [tool.sandlot]
# timeout = "60 s"
# ///
import os, time

def handler(event, context):
    count = 0
    try:
        while count < 1000:
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            count += 1
    except BlockingIOError:
        return count
    return count
"""
SLOW: Final = """
# /// script
# [tool.sandlot]
# timeout = "60 s"
# ///
import time

def handler(event, context):
    time.sleep(event["s"])
    return context.attempt
"""


def ask(machine: Machine, method: str, path: str, body: object = None) -> tuple[str, Any]:
    """The job's id, if there is one, and the document."""
    words = [method, path] if body is None else [method, path, json.dumps(body)]
    job, _, text = machine.run(f"{ASK} {shlex.join(words)}", check=method != "POST").partition("\n")
    return job, json.loads(text)


def deploy(machine: Machine, name: str, source: str, filename: str = "main.py") -> None:
    ask(machine, "PUT", f"/v1/functions/{name}", {"source": source, "filename": filename})


def ended(machine: Machine, job: str) -> Any:
    return ask(machine, "GET", f"/v1/jobs/{job}?wait=90")[1]


def begun(machine: Machine, name: str, event: object) -> str:
    job, _ = ask(machine, "SUBMIT", f"/v1/functions/{name}/invoke", event)
    machine.until(f"{ASK} GET /v1/jobs/{job} | grep started_at")
    return job


def shown(machine: Machine, what: str, unit: str = WORKER) -> str:
    return machine.run(f"systemctl show --property {what} --value {unit}").strip()


def wait_for_worker(machine: Machine) -> None:
    """Wait until the API lists a worker that is one of the unit's current processes.

    A killed worker stays listed for some seconds.
    """
    machine.until(f"{ASK} LIVE {WORKER}", limit_s=300)


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    assert machine.run("systemd-analyze verify sandlot-api.service sandlot-worker@1.service") == ""


def test_the_units_exposure_score_matches_the_documentation(machine: Machine) -> None:
    text = " ".join((REPOSITORY / "docs" / "deploy.md").read_text().split())
    said = re.search(r"gives the API ([\d.]+) and the worker ([\d.]+)", text)
    assert said is not None
    told = machine.run("systemd-analyze security --no-pager sandlot-api sandlot-worker@1")
    assert tuple(re.findall(r"^sandlot-\S+ +([\d.]+)", told, re.MULTILINE)) == said.groups()


def test_the_documented_doctor_command_finds_every_isolation_feature_and_the_queue(machine: Machine) -> None:
    told = machine.run("cat /tmp/doctor")
    assert told.count("memory: cgroup v2") == 2, told
    for line in ("Queue", "Durability", "Eviction", "Sandbox strict python", "Sandbox strict node"):
        assert re.search(rf"^✓  {line} ", told, re.MULTILINE), told


def test_a_call_runs_in_a_strict_sandbox_with_its_own_cgroup(machine: Machine) -> None:
    """Call a Python function only: the doctor covers Node.

    Node's parser, which a deploy needs, is too slow on an emulated processor.
    """
    deploy(machine, "calm", CALM)
    job, answer = ask(machine, "POST", "/v1/functions/calm/invoke", {"n": 1})
    assert answer == {"n": 1}
    receipt = ended(machine, job)["sandbox"]
    assert receipt["level"] == "strict"
    assert (receipt["memory"], receipt["processes"], receipt["cpu"]) == ("cgroup v2",) * 3


def test_metrics_of_api_and_worker_are_scraped_with_the_token(machine: Machine) -> None:
    """A worker's port is its own: a drop-in, as the page has it."""
    drop_in = f"/etc/systemd/system/{WORKER}.service.d"
    settings = r"[Service]\nEnvironment=SANDLOT_METRICS_PORT=9101\n"
    machine.run(f"mkdir -p {drop_in} && printf '{settings}' > {drop_in}/override.conf && systemctl daemon-reload")
    machine.run(f"systemctl restart {WORKER}")
    machine.until(f"{ASK} SCRAPE http://127.0.0.1:9101/metrics | grep sandlot_slots", limit_s=300)
    machine.run(f"{ASK} SCRAPE http://127.0.0.1:8000/metrics | grep sandlot_placement_slots")
    machine.run(f"! {ASK} GET http://127.0.0.1:9101/metrics")
    wait_for_worker(machine)


def test_memory_is_limited_across_all_processes_of_a_function(machine: Machine) -> None:
    deploy(machine, "together", TOGETHER)
    job, _ = ask(machine, "POST", "/v1/functions/together/invoke", {})
    record = ended(machine, job)
    assert record["outcome"] == "memory", record
    assert record["evidence"]["peak_memory_bytes"] <= 64 << 20


def test_the_number_of_a_functions_processes_is_limited(machine: Machine) -> None:
    deploy(machine, "forks", FORKS)
    job, answer = ask(machine, "POST", "/v1/functions/forks/invoke", {})
    assert isinstance(answer, int), answer
    assert 8 < answer < 64, ended(machine, job)


def test_no_process_has_a_secret_in_its_environment_or_arguments_and_root_owns_the_files(machine: Machine) -> None:
    machine.run(
        "for unit in sandlot-api sandlot-worker@1; do"
        ' for pid in $(find /sys/fs/cgroup/system.slice -path "*$unit.service*" -name cgroup.procs -exec cat {} +);'
        " do cat /proc/$pid/environ /proc/$pid/cmdline; done; done > /tmp/seen; test -s /tmp/seen"
    )
    for name in ("signing.key", "api.key", "metrics.token", "callback.secret", "redis-api.url", "redis-worker.url"):
        machine.run(f"! grep --quiet --fixed-strings --file /etc/sandlot/{name} /tmp/seen")
        machine.run(f"! /usr/sbin/runuser -u sandlot -- cat /etc/sandlot/{name}")


def test_a_restarting_worker_finishes_its_running_jobs(machine: Machine) -> None:
    deploy(machine, "slow", SLOW)
    job = begun(machine, "slow", {"s": 8})
    machine.run(f"systemctl restart {WORKER}")
    record = ended(machine, job)
    assert (record["outcome"], record["result"]) == ("ok", 1), record
    wait_for_worker(machine)


def test_a_killed_worker_is_restarted_and_its_jobs_run_again(machine: Machine) -> None:
    deploy(machine, "slow", SLOW)
    job = begun(machine, "slow", {"s": 20})
    before = shown(machine, "MainPID")
    sandboxes = machine.run(f"find '{GROUP}' -mindepth 2 -name cgroup.procs -exec cat {{}} +").split()
    assert before in sandboxes
    machine.run(f"kill -KILL {before}")
    machine.until(f"test $(systemctl show --property MainPID --value {WORKER}) -gt 0")
    assert shown(machine, "NRestarts") == "1"
    machine.run(
        f"for pid in {' '.join(sandboxes)}; do ! grep --quiet sandlot-worker /proc/$pid/cgroup 2>/dev/null || exit 1; done"
    )
    wait_for_worker(machine)
    record = ended(machine, job)
    assert (record["outcome"], record["result"]) == ("ok", 2), record


def test_a_stopped_worker_leaves_nothing_behind(machine: Machine) -> None:
    machine.run(f"systemctl stop {WORKER}")
    assert (shown(machine, "Result"), shown(machine, "ExecMainStatus")) == ("success", "0")
    machine.run(f"! test -e '{GROUP}'")
    machine.run(f"systemctl start {WORKER}")
    wait_for_worker(machine)


def test_reload_replaces_the_apis_processes_but_not_their_supervisor(machine: Machine) -> None:
    machine.run("echo SANDLOT_API_PROCESSES=2 > /etc/sandlot/api.env && systemctl restart sandlot-api")
    machine.until(f"{ASK} GET /healthz", limit_s=300)
    first = shown(machine, "MainPID", "sandlot-api")
    machine.until(f"test $(pgrep --parent {first} | wc -l) = 2", limit_s=300)
    old = set(machine.run(f"pgrep --parent {first}").split())
    machine.run("systemctl reload sandlot-api")
    gone = " ".join(f"! test -e /proc/{pid};" for pid in sorted(old))
    machine.until(f"set -e; {gone} test $(pgrep --parent {first} | wc -l) = 2", limit_s=300)
    assert shown(machine, "MainPID", "sandlot-api") == first
    machine.run(f"{ASK} GET /healthz")
