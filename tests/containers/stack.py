"""compose.yaml started by podman-compose or `docker compose`: its containers and its API."""

from __future__ import annotations

import re
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from tests.containers.engine import COMMAND_LIMIT_S, IMAGE, REPOSITORY, Engine
from tests.waiting import until

START_LIMIT_S: Final = 60.0
SLOTS: Final = 4
EXPECTED: Final = re.compile(r"doesn't support|unused networks: monitoring$")
"""The second alternative: podman-compose, unlike Docker's, warns about a network that only a
profile uses which is not enabled."""
WARNING: Final = re.compile(r"WARN|level=warning")
_Found = TypeVar("_Found")


class Stack:
    """One compose project. `up` can be called again with another number of workers."""

    def __init__(self, engine: Engine, project: str, file: str, secrets: Path, **settings: str) -> None:
        self.engine = engine
        self.project = project
        self.secrets = secrets
        self.listens_at = f"127.0.0.1:{_free_port()}"
        self._file = file
        self.environment = {
            **engine.environment,
            "SANDLOT_IMAGE": IMAGE,
            "SANDLOT_VALKEY_IMAGE": IMAGE,
            "SANDLOT_SECRETS": str(secrets),
            "SANDLOT_LISTEN": self.listens_at,
            "SANDLOT_LOG_DRIVER": engine.log_driver,
            "SANDLOT_DRAIN_S": "5",
            "SANDLOT_SLOTS": str(SLOTS),
            "SANDLOT_WORKER_MEMORY": "2g",
            **settings,
        }
        key = secrets / "api.key"
        self.http = httpx.Client(
            base_url=f"http://{self.listens_at}",
            headers={"authorization": f"Bearer {key.read_text().strip()}"} if key.exists() else {},
            timeout=30,
            trust_env=False,
        )

    def compose(self, *words: str, check: bool = True) -> str:
        command = [*self.engine.compose, "-p", self.project, "-f", self._file, *words]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        # Podman before 4.6 cannot wait for health; the tests wait for the API themselves.
        warnings = [line for line in done.stderr.splitlines() if WARNING.search(line) and not EXPECTED.search(line)]
        assert not (check and warnings), warnings
        return done.stdout

    def up(self, workers: int = 1) -> None:
        self.compose("up", "--detach", "--no-build", "--scale", f"worker={workers}")

    def down(self) -> None:
        self.http.close()
        # podman-compose takes down as many workers as the file says, not as many as there are.
        if found := self.engine.run("ps", "--all", "--quiet", *self._label("project", self.project)).stdout.split():
            self.engine.remove(*found)
        self.compose("down", "--volumes", check=False)

    def containers(self, service: str) -> list[str]:
        """Names of the running ones."""
        labels = (*self._label("project", self.project), *self._label("service", service))
        return sorted(self.engine.run("ps", *labels, "--format", "{{.Names}}").stdout.split())

    @staticmethod
    def _label(kind: str, value: str) -> tuple[str, str]:
        return "--filter", f"label=com.docker.compose.{kind}={value}"

    def logs(self, name: str) -> str:
        done = self.engine.run("logs", name)
        return done.stdout + done.stderr

    # The API.

    def ready(self) -> dict[str, Any] | None:
        try:
            reply = self.http.get("/readyz")
        except httpx.HTTPError:
            return None
        return reply.json() if reply.status_code == 200 else None

    def workers(self) -> int:
        found = self.ready()
        return found["workers"].get("python", 0) if found else 0

    def worker_names(self) -> set[str]:
        """Each process has its own, whatever container it is in."""
        reply = self.http.get("/v1/status")
        assert reply.status_code == 200, reply.text
        return {worker["name"] for worker in reply.json()["workers"]}

    def wait_for(self, workers: int) -> None:
        try:
            until(lambda: self.workers() == workers, reason=lambda: f"{workers} live workers")
        except AssertionError as error:
            names = self.engine.run("ps", "--all", "--format", "{{.Names}}").stdout.split()
            raise AssertionError(
                "\n".join([str(error), *(f"{name}: {self.logs(name)[-1500:]}" for name in names)])
            ) from error

    def deploy(self, name: str, filename: str, source: str) -> None:
        body = {"source": source, "filename": filename}
        reply = self.http.put(f"/v1/functions/{name}", json=body)
        assert reply.status_code in (200, 201), reply.text

    def built(self, name: str) -> dict[str, Any]:
        """Deploy a function with dependencies; wait until it is built or has failed."""

        def ended() -> dict[str, Any] | None:
            version: dict[str, Any] = self.http.get(f"/v1/functions/{name}", params={"version": 1}).json()
            return version if version["state"] != "pending" else None

        return until(ended, reason=lambda: f"the dependencies of {name} to be built")

    def call(self, name: str, event: object) -> httpx.Response:
        return self.http.post(f"/v1/functions/{name}/invoke", json=event)

    def submit(self, name: str, event: object) -> str:
        """Submit a job and return its id; refusals are retried, since they submit nothing.

        A lost reply is requested again with the same idempotency key, so a job counts once.
        """
        headers = {"prefer": "respond-async", "idempotency-key": str(uuid.uuid4())}

        def accepted() -> str:
            try:
                reply = self.http.post(f"/v1/functions/{name}/invoke", json=event, headers=headers)
            except httpx.TransportError:
                return ""
            assert reply.status_code in (202, 503), reply.text
            return reply.headers["location"].rpartition("/")[2] if reply.status_code == 202 else ""

        return until(accepted, reason=lambda: f"a job of {name} to be accepted")

    def has_begun(self, job_id: str) -> bool:
        return self.http.get(f"/v1/jobs/{job_id}").json()["started_at"] is not None

    def job(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended."""

        def ended() -> dict[str, Any] | None:
            try:
                reply = self.http.get(f"/v1/jobs/{job_id}", params={"wait": 10})
            except httpx.TransportError:
                return None
            assert reply.status_code in (200, 503), f"{job_id}: {reply.text}"
            record: dict[str, Any] = reply.json()
            return record if reply.status_code == 200 and record["ended_at"] is not None else None

        return until(ended, reason=lambda: f"job {job_id} to end")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
