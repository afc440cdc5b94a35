"""compose.yaml on a real engine: it serves calls and scales.

Neither a dead worker nor a dead Valkey loses an accepted job.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers.conftest import ENGINES
from tests.containers.engine import IMAGE, Engine
from tests.containers.stack import SLOTS, Stack
from tests.containers.test_image import OURS
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)

PROJECT = "sandlot-test"
INDEX = "sandlot-test-index"
PYTHON = "def handler(event, context):\n    return {'python': event['n'] * 2}\n"
NODE = "export const handler = async (event) => ({ node: event.n * 2 });\n"
GREET = """
# /// script
# dependencies = ["greeter"]
# ///
import greeter

def handler(event, context):
    return greeter.VERSION
"""
SLOW = "import time\n\ndef handler(event, context):\n    time.sleep(event['s'])\n    return context.attempt\n"


@pytest.fixture(scope="module", params=ENGINES)
def stack(request: pytest.FixtureRequest, secrets: Path) -> Iterator[Stack]:
    engine: Engine = request.getfixturevalue(request.param)
    with engine.inside(), package_index(engine, f"{PROJECT}_out") as url:
        made = Stack(
            engine, PROJECT, "compose.yaml", secrets, SANDLOT_PYTHON_INDEX_URL=url, SANDLOT_BUILD_HOSTS="pypi.invalid"
        )
        yield from up(made)


def up(made: Stack) -> Iterator[Stack]:
    try:
        made.up()
        made.wait_for(workers=1)
        for name, filename, source in (("py", "py.py", PYTHON), ("js", "js.mjs", NODE), ("slow", "slow.py", SLOW)):
            made.deploy(name, filename, source)
        yield made
    finally:
        made.down()


@contextmanager
def package_index(engine: Engine, network: str) -> Iterator[str]:
    """Start a package index in a container on the workers' network for it.

    It starts first, because the workers' environment has its address.
    """
    engine.run("network", "create", *labels(network), network)
    script = Path(__file__).parent / "wheel_index.py"
    mount = ("--volume", f"{script}:/index.py:ro")
    engine.run(
        *(
            "run",
            "--detach",
            "--init",
            "--name",
            INDEX,
            "--network",
            network,
            *mount,
            "--entrypoint",
            "python",
            IMAGE,
            "/index.py",
        )
    )
    try:
        yield f"http://{engine.inspect(INDEX)['NetworkSettings']['Networks'][network]['IPAddress']}:8080/simple"
    finally:
        engine.remove(INDEX)
        engine.run("network", "rm", network, check=False)


def labels(network: str) -> list[str]:
    """Without which Docker's Compose would not have it as one of the project."""
    project, _, name = network.rpartition("_")
    said = {"com.docker.compose.project": project, "com.docker.compose.network": name}
    return [word for key, value in said.items() for word in ("--label", f"{key}={value}")]


@pytest.mark.parametrize(("function", "answer"), [("py", {"python": 42}), ("js", {"node": 42})])
def test_a_call_runs_in_a_strict_sandbox(stack: Stack, function: str, answer: object) -> None:
    reply = stack.call(function, {"n": 21})
    assert (reply.status_code, reply.json()) == (200, answer)
    receipt = stack.job(reply.headers["x-job-id"])["sandbox"]
    assert (receipt["level"], receipt["capabilities"], receipt["seccomp"]) == ("strict", "0x0", True)
    assert {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} <= set(receipt["namespaces"])


@pytest.mark.parametrize(("function", "answer"), [("py", {"python": 42}), ("js", {"node": 42})])
def test_a_job_is_accepted_run_and_its_result_kept(stack: Stack, function: str, answer: object) -> None:
    record = stack.job(stack.submit(function, {"n": 21}))
    assert (record["outcome"], record["result"]) == ("ok", answer)


def test_dependencies_come_from_the_configured_index(stack: Stack) -> None:
    stack.deploy("greet", "greet.py", GREET)
    version = stack.built("greet")
    assert version["state"] == "active", version
    reply = stack.call("greet", {})
    assert (reply.status_code, reply.json()) == (200, "1.0")
    assert stack.job(reply.headers["x-job-id"])["sandbox"]["level"] == "strict"


def test_calls_without_the_key_run_nothing(stack: Stack) -> None:
    reply = stack.http.post("/v1/functions/py/invoke", json={"n": 1}, headers={"authorization": ""})
    assert reply.status_code == 401


@pytest.mark.parametrize("service", ["valkey", "api", "worker"])
def test_every_container_reports_itself_healthy(stack: Stack, service: str) -> None:
    (name,) = stack.containers(service)
    until(lambda: stack.engine.healthy(name), reason=lambda: f"{service} to be healthy")


@pytest.mark.parametrize("service", ["valkey", "api", "worker"])
def test_every_process_in_a_container_is_unprivileged_and_cannot_write_to_the_image(stack: Stack, service: str) -> None:
    (name,) = stack.containers(service)
    look = "cat /proc/1/status; touch /opt/x /etc/x /x 2>&1 | wc -l"
    found = stack.engine.run("exec", name, "bash", "-c", look).stdout
    fields = dict(line.split(":\t", 1) for line in found.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert {fields[field] for field in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert found.splitlines()[-1] == "3"


@pytest.mark.parametrize("service", ["valkey", "api", "worker"])
def test_the_engine_limits_and_restarts_every_container(stack: Stack, service: str) -> None:
    (name,) = stack.containers(service)
    given = stack.engine.inspect(name)["HostConfig"]
    assert given["Memory"] > 0
    assert given["PidsLimit"] > 0
    assert (given["Privileged"], given["ReadonlyRootfs"], given["CapAdd"] or []) == (False, True, [])
    assert given["RestartPolicy"]["Name"] == "unless-stopped"


def test_the_engine_restarts_a_dead_worker(stack: Stack) -> None:
    (worker,) = stack.containers("worker")
    before = stack.worker_names()
    os.kill(
        stack.engine.inspect(worker)["State"]["Pid"], signal.SIGKILL
    )  # not by the engine, to which it would be a wish
    until(lambda: len(stack.worker_names() - before) == 1, reason=lambda: "another worker in its place")
    stack.wait_for(workers=1)


def test_no_container_has_a_secret_in_its_environment_or_arguments(stack: Stack, secrets: Path) -> None:
    values = {
        (secrets / name).read_text().strip()
        for name in ("signing.key", "api.key", "metrics.token", "redis-api.url", "redis-worker.url")
    }
    for service in ("valkey", "api", "worker"):
        (name,) = stack.containers(service)
        text = json.dumps(stack.engine.inspect(name))
        assert not [value for value in values if value in text]


def test_valkey_uses_the_allocator_that_stays_fast_as_the_queue_grows(stack: Stack) -> None:
    (valkey,) = stack.containers("valkey")
    look = "for maps in /proc/[0-9]*/maps; do grep -l mimalloc $maps; done 2>/dev/null | xargs dirname | xargs -I{} cat {}/comm"
    assert stack.engine.run("exec", valkey, "bash", "-c", look).stdout.split() == ["valkey-server"]


def test_valkey_needs_a_password_and_cannot_reach_other_networks(stack: Stack) -> None:
    (valkey,) = stack.containers("valkey")
    assert "NOPERM" in stack.engine.run("exec", valkey, "bash", "-c", ASK_VALKEY).stdout
    (api,) = stack.containers("api")
    outside = stack.engine.inspect(api)["NetworkSettings"]["Networks"][f"{stack.project}_front"]["IPAddress"]
    reach = ("timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{outside}/8000")
    assert stack.engine.run("exec", api, *reach, check=False).returncode == 0, "what is to be reached is there"
    assert stack.engine.run("exec", valkey, *reach, check=False).returncode != 0


ASK_VALKEY = r"exec 3<>/dev/tcp/127.0.0.1/6379; printf 'KEYS *\r\n' >&3; read -t 3 -r answer <&3; echo $answer"


SCRAPE = """
import socket, sys, urllib.error, urllib.request
token = open("/run/secrets/metrics_token").read().strip()
for address in sorted({found[4][0] for found in socket.getaddrinfo("worker", 9100, socket.AF_INET)}):
    request = urllib.request.Request(f"http://{address}:9100/metrics", headers={"authorization": f"Bearer {token}"})
    text = urllib.request.urlopen(request, timeout=10).read().decode()
    try:
        urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=10)
    except urllib.error.HTTPError as refused:
        print(refused.code, "sandlot_slots" in text)
"""


def test_workers_are_scraped_by_service_name_and_only_with_the_token(stack: Stack) -> None:
    """As Prometheus does it, whose image cannot be had where these tests run."""
    (api,) = stack.containers("api")
    told = stack.engine.run("exec", api, "python", "-c", SCRAPE).stdout.splitlines()
    assert set(told) == {"401 True"}
    assert len(told) >= len(stack.containers("worker"))  # two networks in common: at most two addresses each
    token = (stack.secrets / "metrics.token").read_text().strip()
    reply = stack.http.get("/metrics", headers={"authorization": f"Bearer {token}"})
    assert reply.status_code == 200
    assert 'sandlot_placement_workers{placement="python"}' in reply.text


def test_a_workers_selftest_finds_every_isolation_feature(stack: Stack) -> None:
    (worker,) = stack.containers("worker")
    checks = json.loads(stack.engine.run("exec", worker, "sandlot", "doctor", "--json").stdout)
    walls = {check["name"]: check["grade"] for check in checks if "andbox" in check["name"]}
    assert walls == {"Sandbox strict python": "ok", "Sandbox strict node": "ok"}
    queue = {check["name"]: check["grade"] for check in checks}
    assert {queue[name] for name in ("Queue", "Durability", "Eviction")} == {"ok"}


def test_four_workers_share_the_work(stack: Stack) -> None:
    stack.up(workers=4)
    stack.wait_for(workers=4)
    jobs = [stack.submit("slow", {"s": 0.5}) for _ in range(32)]
    assert Counter(stack.job(job)["outcome"] for job in jobs) == {"ok": 32}
    assert len(stack.containers("worker")) == 4


def test_stopped_workers_finish_their_running_jobs(stack: Stack) -> None:
    """As at an upgrade: new ones are there, old ones are stopped."""
    stack.up(workers=4)
    stack.wait_for(workers=4)
    jobs = [stack.submit("slow", {"s": 1}) for _ in range(4 * SLOTS)]
    until(lambda: all(stack.has_begun(job) for job in jobs), reason=lambda: "every slot of every worker to be busy")
    old = stack.containers("worker")[:2]
    stack.engine.run("stop", "--time", "30", *old)
    assert [stack.engine.inspect(name)["State"]["ExitCode"] for name in old] == [0, 0]
    records = [stack.job(job) for job in jobs]
    assert Counter((record["outcome"], record["attempt"]) for record in records) == {("ok", 1): 4 * SLOTS}


def test_jobs_of_a_killed_worker_finish_on_the_others(stack: Stack) -> None:
    stack.up(workers=4)
    stack.wait_for(workers=4)
    jobs = [stack.submit("slow", {"s": 3}) for _ in range(4 * SLOTS)]
    until(lambda: all(stack.has_begun(job) for job in jobs), reason=lambda: "every slot of every worker to be busy")
    stack.engine.run("kill", "--signal", "KILL", stack.containers("worker")[0])
    records = [stack.job(job) for job in jobs]
    assert Counter(record["outcome"] for record in records) == {"ok": 4 * SLOTS}
    assert Counter(record["attempt"] for record in records) == {1: 3 * SLOTS, 2: SLOTS}


@pytest.mark.parametrize("ending", ["TERM", "KILL"])
def test_no_accepted_job_is_lost_when_valkey_restarts(stack: Stack, ending: str) -> None:
    jobs = [stack.submit("slow", {"s": 0.05, "n": number}) for number in range(60)]
    (valkey,) = stack.containers("valkey")
    before = stack.engine.inspect(valkey)["State"]["StartedAt"]
    stack.engine.run("kill", "--signal", ending, valkey)

    def gone() -> bool:
        state = stack.engine.inspect(valkey)["State"]
        return not state["Running"] or state["StartedAt"] != before

    until(gone, reason=lambda: "Valkey to be gone")
    stack.engine.run("start", valkey)
    jobs += [stack.submit("slow", {"s": 0.05, "n": number}) for number in range(60, 80)]
    assert Counter(stack.job(job)["outcome"] for job in jobs) == {"ok": 80}


def test_a_worker_without_strict_sandboxes_does_not_start(stack: Stack) -> None:
    """As compose.yaml starts it, but without the profile."""
    settings = {
        "SANDBOX": "strict",
        "INSECURE_REDIS": "1",
        "DATA": "/cache",
        "REDIS_URL_FILE": "/redis-worker.url",
        "SIGNING_KEY_FILE": "/signing.key",
    }
    words = ["--network", f"{stack.project}_queue"]
    words += [word for name, value in settings.items() for word in ("--env", f"SANDLOT_{name}={value}")]
    words += [
        word
        for name in ("redis-worker.url", "signing.key")
        for word in ("--volume", f"{stack.secrets}/{name}:/{name}:ro")
    ]
    done = stack.engine.once(*OURS, *words, IMAGE, "worker")
    assert done.returncode == 2, done.stderr
    assert "deploy/worker-seccomp.json" in done.stderr
