"""The life of one contender in a run: start it, check its answers, and end it."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import valkey
from benchmarks.contenders import Contender, Place
from benchmarks.environment import CACHE, Environment
from benchmarks.servers import ServerFailed, Servers
from benchmarks.workloads import HELLO, Workload

START_LIMIT_S: Final = 60.0
REPLY_LIMIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Hosted:
    """A running contender. Its processes end with the `with` block that started them."""

    contender: Contender
    place: Place
    servers: Servers

    def url(self, function: str) -> str:
        return f"http://127.0.0.1:{self.place.port}{self.contender.path.format(function=function)}"

    def check(self, workload: Workload) -> None:
        """Call the function once and compare the whole answer.

        Raises:
            ServerFailed: the status is not 200, the body differs, or no reply came.
        """
        status, body = ask(
            self.place.port,
            self.contender.path.format(function=workload.function),
            workload.event,
            dict(self.contender.headers),
        )
        if status != 200 or _parsed(body) != workload.answer:
            raise ServerFailed(
                f"{workload.function} answered {status} {body[:200]!r} instead of {json.dumps(workload.answer)[:80]}"
            )


def ask(port: int, path: str, body: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send one POST on a new connection.

    Raises:
        OSError, http.client.HTTPException: there was no reply.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REPLY_LIMIT_S)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@contextmanager
def place_for(contender: Contender, environment: Environment, cpus: int) -> Iterator[tuple[Place, Servers]]:
    """Provide a free port, an empty folder on a real disk and, if needed, a Valkey."""
    CACHE.mkdir(parents=True, exist_ok=True)
    # The socket cannot be in the run's folder: its path must fit into 108 bytes (unix(7)).
    with (
        tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as run,
        tempfile.TemporaryDirectory(prefix="bench-") as sockets,
    ):
        run_dir, socket_path = Path(run), Path(sockets, "valkey")
        with Servers(run_dir / "log") as servers:
            redis_url = ""
            if contender.valkey is not None:
                servers.start(valkey.program(socket_path, run_dir / "valkey", contender.valkey))
                _wait_until(lambda: valkey.answers(socket_path), servers, "its Valkey")
                redis_url = f"unix://{socket_path}"
            yield Place(free_port(), run_dir, redis_url, cpus, environment), servers


@contextmanager
def hosted(contender: Contender, environment: Environment, cpus: int) -> Iterator[Hosted]:
    """Start the contender and wait until it answers HELLO correctly.

    Raises:
        ServerFailed: it did not within START_LIMIT_S, or ended; the message ends with its log.
    """
    with place_for(contender, environment, cpus) as (place, servers):
        if contender.workers is not None:
            servers.start(contender.workers(place))
        servers.start(contender.front(place))
        host = Hosted(contender, place, servers)
        _wait_until(lambda: _is_ready(host), servers, contender.label)
        host.check(HELLO)
        yield host


def _is_ready(host: Hosted) -> bool:
    try:
        host.check(HELLO)
    except (OSError, http.client.HTTPException, ServerFailed):
        return False
    return True


def _wait_until(condition: Callable[[], bool], servers: Servers, name: str) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not condition():
        servers.check_alive()
        if time.monotonic() > deadline_s:
            raise ServerFailed(f"{name} was not ready after {START_LIMIT_S:.0f} s: {servers.log_tail()}")
        time.sleep(0.05)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
