"""Write access to Redis executes nothing in the API, a worker or the command line.

An audit hook watches each of them. All payloads that make stock RQ, or others, execute what Redis
holds are planted at once. Each has a command that would leave a mark, a module that is otherwise
never imported, or the address of a listener. Then the platform is used normally.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.system.http.conftest import OwnStack
from tests.waiting import HANG_S, until

WATCHED = Path(__file__).with_name("watched.py")
MODULE = "antigravity"
"""Part of every Python and otherwise never imported; importing it opens a browser."""
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pickle.find_class", "webbrowser.open", "urllib.Request"}  # fmt: skip
GOOD = "def handler(event, context):\n    return event\n"


class Trap:
    """Listens on the loopback device and counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.caught = 0
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._socket.accept()[0].close()
                self.caught += 1

    def close(self) -> None:
        self._socket.close()


class Payload:
    """Runs a command wherever it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


class Attacker:
    """An attacker with every right in Redis and without the signing key."""

    def __init__(self, client: redis.Redis, folder: Path, trap: Trap) -> None:
        self._redis = client
        self.mark = folder / "executed"
        self.trap = trap
        self._pickle = pickle.dumps(Payload(f"touch {self.mark}"))

    def job_fields(self) -> dict[str, Any]:
        """Return an RQ job whose every field is one that RQ would run, import, unpickle or call."""
        call = json.dumps(["os.system", None, [f"touch {self.mark}"], {}]).encode()
        hook = {"url": f"http://127.0.0.1:{self.trap.port}/", "headers": {"Metadata-Flavor": "x"}, "method": "POST"}
        return {
            "data": call,
            "func_name": "os.system",
            "success_callback_name": f"{MODULE}.geohash",
            "failure_callback_name": "os.system",
            "stopped_callback_name": "subprocess.check_output",
            "meta": self._pickle,
            "result": self._pickle,
            "exc_info": zlib.compress(self._pickle),
            "webhooks": json.dumps([hook]),
            "dependency_ids": json.dumps(["x"]),
            "worker_name": "x",
            "status": "queued",
            "created_at": "2026-11-25T00:00:00.000000Z",
            "timeout": "10",
        }

    def plant_jobs(self, queue: str) -> list[str]:
        """Queue a function's jobs with a bomb or a pickle as data, without a valid envelope."""
        bomb = zlib.compress(b"0" * 200_000_000)
        variants: list[dict[str, Any]] = [
            {}, {"data": self._pickle}, {"data": zlib.compress(self._pickle)}, {"data": bomb}, {"meta": bomb},
            {"sl_envelope": b"A" * 44 + b'|3|0|{"job_id":"x","function":"echo","version":1,"digest":"","wall_limit_ms":1000}'},
            {"sl_envelope": self._pickle}, {"sl_envelope": bomb}, {"status": "started"}, {"status": "scheduled"},
        ]  # fmt: skip
        ids = []
        for number, extra in enumerate(variants):
            job_id = f"00000000-0000-4000-8000-{number:012d}"
            self._redis.hset(f"rq:job:{job_id}", mapping=self.job_fields() | extra)
            self._redis.rpush(f"rq:queue:{queue}", job_id)
            self._redis.zadd(f"rq:wip:{queue}", {job_id: 1, f"{job_id}:x": 2})
            self._redis.zadd("sandlot:leases", {f"{job_id}:1": 1})
            ids.append(job_id)
        placement = queue.partition("@")[2]
        self._redis.sadd("rq:queues", f"rq:queue:{queue}")
        self._redis.zadd(f"sandlot:ring:{placement}", {queue: 0})
        return ids

    def twist(self, job_id: str) -> None:
        """A job that has ended well: its end, its result and its event are now the attacker's."""
        fields = self.job_fields() | {"status": "finished", "sl_end": b"A" * 44 + b'|{"kind":"ok"}'}
        self._redis.hset(f"rq:job:{job_id}", mapping=fields)
        self._redis.delete(f"rq:results:{job_id}")
        self._redis.xadd(f"rq:results:{job_id}", {"type": "1", "return_value": self._pickle, "created_at": "0"})
        self._redis.set(f"sandlot:logs:{job_id}", self._pickle)

    def swap_code(self, name: str, digest: str) -> None:
        """Replace one version's bundle, put a bomb in another, and forge a latest version."""
        chunks = f"sandlot:bundle-chunks:{digest}"
        evil = f"import os\nos.system('touch {self.mark}')\ndef handler(event, context):\n    return 'pwned'\n".encode()
        for field in self._redis.hkeys(chunks):
            self._redis.hset(chunks, field, zlib.compress(evil))
        own = hashlib.sha256(evil).hexdigest()
        self._redis.hset(f"sandlot:bundle-chunks:{own}", "0", zlib.compress(b"0" * 200_000_000))
        record = json.dumps({"function": name, "number": 9, "digest": own, "manifest": {"runtime": "python", "handler": "os.system"}})  # fmt: skip
        for field in ("v9", "g9", "aevil"):
            self._redis.hset(f"sandlot:function:{name}", field, b"A" * 44 + b"|" + record.encode())
        self._redis.hset(f"sandlot:function:{name}", "latest", 9)

    def make_key(self) -> str:
        """An admin key, as it is recorded but for the signature."""
        token = "sk_" + "a" * 16 + "." + "b" * 43
        record = {
            "id": "a" * 16,
            "digest": hashlib.sha256(token.encode()).hexdigest(),
            "owner": "default",
            "scopes": ["admin"],
        }
        for signature in (b"", b"A" * 44 + b"|"):
            self._redis.hset("sandlot:api-keys", "a" * 16, signature + json.dumps(record).encode())
        return token

    def shout(self) -> None:
        """Publish on every channel: RQ's commands to each worker, pickles and nonsense to all."""
        channels = {channel.decode() for channel in self._redis.pubsub_channels()}
        workers = {key.decode().removeprefix("rq:worker:") for key in self._redis.keys("rq:worker:*")}
        for worker in workers:
            channels |= {f"rq:pubsub:{worker}", f"sandlot:to-worker:{worker}"}
        for channel in channels:
            for command in ("shutdown", "kill-horse", "stop-job"):
                self._redis.publish(channel, json.dumps({"command": command, "job_id": "x"}))
            for message in (
                self._pickle,
                b"",
                b"\xff" * 1000,
                b"../../etc/passwd",
                b"os.system",
                zlib.compress(b"0" * 10**7),
            ):
                self._redis.publish(channel, message)


class Watch:
    """A platform of its own whose programs note what they do."""

    def __init__(self, own: OwnStack, folder: Path) -> None:
        self._own = own
        self._log, self._arm = folder / "events", folder / "armed"
        self._log.touch()
        self.url = ""

    def start(self) -> None:
        for module in ("api", "worker"):
            command = [str(WATCHED), str(self._log), str(self._arm), module]
            part = self._own.start(module, command=command)
            if module == "api":
                self.url = part.event("listening")["url"]
            else:
                part.event("worker started")

    def arm(self) -> None:
        self._arm.touch()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
        environment |= self._own.environment | {"SANDLOT_URL": self.url}
        return subprocess.run(
            [sys.executable, str(WATCHED), str(self._log), str(self._arm), "sandlot", *words],
            env=environment, capture_output=True, text=True, timeout=HANG_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def events(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def trap() -> Iterator[Trap]:
    trap = Trap()
    yield trap
    trap.close()


def judge(events: list[list[str]], attacker: Attacker) -> None:
    assert not attacker.mark.exists()
    assert attacker.trap.caught == 0
    armed = {program for program, event, *_ in events if event == "armed"}
    assert armed == {"api", "worker", "sandlot"}, "the hooks of all three have looked"
    for program, event, *arguments in events:
        text = " ".join(arguments)
        assert event not in FORBIDDEN, (program, event, text)
        assert str(attacker.mark) not in text, (program, event, text)
        assert f"{attacker.trap.port}" not in text or event != "socket.connect", (program, event, text)
        assert event != "import" or arguments[0].strip("'").partition(".")[0] != MODULE, (program, event, text)


GULLIBLE = """\
import sys
import redis
from rq.job import Job
raw = redis.Redis.from_url(sys.argv[1])
raw.hdel("rq:job:" + sys.argv[2], "result")  # RQ wants that to be text
Job.fetch(sys.argv[2], connection=raw).perform()
"""


def test_the_planted_attacks_work_on_stock_rq_and_the_audit_hook_sees_them(
    own: OwnStack, tmp_path: Path, trap: Trap
) -> None:
    """Or the other test would prove nothing."""
    (tmp_path / "gullible.py").write_text(GULLIBLE)
    log, arm = tmp_path / "events", tmp_path / "armed"
    arm.touch()
    url = own.environment["SANDLOT_REDIS_URL"]
    with redis.Redis.from_url(url) as raw:
        attacker = Attacker(raw, tmp_path, trap)
        _, job_id, *_ = attacker.plant_jobs("echo@python")
    command = [sys.executable, str(WATCHED), str(log), str(arm), "gullible", url, job_id]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}  # a pickle in `data`, as RQ's default has it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert attacker.mark.exists(), done.stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(event == "os.system" and str(attacker.mark) in " ".join(told) for _, event, *told in events), events
    assert FORBIDDEN & {event for _, event, *_ in events}


@pytest.mark.timeout(240)
def test_write_access_to_redis_executes_nothing(own: OwnStack, tmp_path: Path, trap: Trap) -> None:
    watch = Watch(own, tmp_path)
    watch.start()
    with (
        redis.Redis.from_url(own.environment["SANDLOT_REDIS_URL"]) as raw,
        own.client(url=watch.url) as client,
        own.client(url=watch.url, key=False) as stranger,
    ):
        attacker = Attacker(raw, tmp_path, trap)
        for name in ("echo", "victim"):
            digest = client.put(f"/v1/functions/{name}", json={"source": GOOD}).json()["digest"]
        job_id = client.post("/v1/functions/echo/invoke?async=true", content=b"1").json()["id"]
        assert client.get(f"/v1/jobs/{job_id}?wait=20").json()["status"] == "succeeded"
        watch.arm()

        planted = attacker.plant_jobs("echo@python")
        attacker.twist(job_id)
        attacker.swap_code("victim", digest)
        token = attacker.make_key()
        attacker.shout()

        use_everything(client, watch, [*planted, job_id])
        assert client.post("/v1/functions/victim/invoke", content=b"1").text.find("pwned") < 0
        forged = {"authorization": f"Bearer {token}"}
        assert stranger.put("/v1/functions/evil", json={"source": GOOD}, headers=forged).status_code == 401
        # Every planted job was read, nothing was executed, and honest requests still work.
        until(
            lambda: client.post("/v1/functions/echo/invoke", content=b"2").content == b"2",
            reason=lambda: "no answer any more",
        )
        until(
            lambda: raw.llen("rq:queue:echo@python") == 0, reason=lambda: str(raw.lrange("rq:queue:echo@python", 0, -1))
        )
    assert [part.process.poll() for part in own.parts] == [None, None], "the programs live"
    judge(watch.events(), attacker)


def use_everything(client: httpx.Client, watch: Watch, job_ids: list[str]) -> None:
    """Read the planted data in every way that API and command line offer."""
    for job_id in job_ids:
        for path in ("", "/result", "/logs"):
            reply = client.get(f"/v1/jobs/{job_id}{path}")
            assert reply.status_code < 501, reply.text
        client.post(f"/v1/jobs/{job_id}/retry")
        client.delete(f"/v1/jobs/{job_id}")
    for path in ("/v1/functions", "/v1/functions/victim", "/v1/functions/victim?version=9", "/v1/functions/victim/versions/1/bundle",
                 "/v1/functions/victim/aliases/evil", "/v1/status", "/readyz", "/metrics", "/fn/echo"):  # fmt: skip
        client.get(path)
    for words in (["functions"], ["key", "list"], ["job", job_ids[0]], ["logs", job_ids[-1]]):  # fmt: skip
        watch.command(*words)
