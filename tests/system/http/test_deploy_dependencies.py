"""Deploys with dependencies over HTTP, with workers as processes and an index on loopback."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.sandbox.package_index import PASSWORD, Index, open_index
from tests.system.http.conftest import Stack
from tests.waiting import HANG_S, until

Until = Callable[[Callable[[], object]], None]
PLAIN = "def handler(event, context):\n    return 'plain'\n"


def source(*dependencies: str) -> str:
    listed = ", ".join(f'"{each}"' for each in dependencies)
    return f"# /// script\n# dependencies = [{listed}]\n# ///\nimport greeter\n\ndef handler(event, context):\n    return greeter.VERSION\n"


@pytest.fixture
def index() -> Iterator[Index]:
    with open_index() as opened:
        opened.add_wheel("greeter", "1.0")
        yield opened


@pytest.fixture
def stack(own: Stack) -> Stack:
    """An API and no worker yet."""
    _, own.url = own.start_api()
    return own


def start_worker(stack: Stack, index: Index, disk: Path) -> Any:
    """A worker that shares nothing with others but Redis."""
    worker = stack.start(
        "worker",
        SANDLOT_DATA=str(disk),
        SANDLOT_PYTHON_INDEX_URL=index.url,
        SANDLOT_BUILD_HOSTS="",
    )
    worker.event("worker started")
    return worker


def deploy(client: httpx.Client, text: str) -> dict[str, Any]:
    reply = client.put("/v1/functions/hello", json={"source": text})
    assert reply.status_code in (200, 201), reply.text
    return dict(reply.json())


def version(client: httpx.Client, number: int) -> dict[str, Any]:
    return dict(client.get("/v1/functions/hello", params={"version": number}).json())


def test_the_previous_version_serves_during_a_build_and_after_a_failed_one(
    stack: Stack, index: Index, tmp_path: Path
) -> None:
    index.open.clear()
    start_worker(stack, index, tmp_path / "one")
    with stack.client() as client:
        assert deploy(client, PLAIN)["state"] == "active"
        assert deploy(client, source("greeter"))["state"] == "pending"
        until(lambda: index.seen)
        until(lambda: version(client, 2)["progress"] != "waiting for a worker")
        assert client.post("/v1/functions/hello/invoke").json() == "plain"
        refused = client.post("/v1/functions/hello/invoke", params={"version": 2})
        assert (refused.status_code, refused.json()["code"]) == (503, "version_pending")
        client.put("/v1/functions/also", json={"source": source("greeter>0")}).raise_for_status()
        listed = {each["name"]: each["state"] for each in client.get("/v1/functions").json()["functions"]}
        assert listed == {"also": "pending", "hello": "active"}
        client.delete("/v1/functions/also").raise_for_status()
        index.open.set()
        until(lambda: version(client, 2)["state"] == "active")
        assert client.post("/v1/functions/hello/invoke").json() == "1.0"
        deploy(client, source("greeter", "nowhere-to-be-found"))
        until(lambda: version(client, 3)["state"] == "failed")
        assert "nowhere-to-be-found" in version(client, 3)["reason"]
        described = client.get("/v1/functions/hello").json()
        assert (described["version"], described["latest"]) == (2, 2)
        assert [each["state"] for each in described["waiting"]] == ["failed"]
        assert client.post("/v1/functions/hello/invoke").json() == "1.0"
        refused = client.post("/v1/functions/hello/invoke", params={"version": 3})
        assert (refused.status_code, refused.json()["code"]) == (409, "version_failed")


def test_a_build_survives_its_worker_and_finishes_on_a_machine_that_has_only_redis(
    stack: Stack, index: Index, tmp_path: Path
) -> None:
    index.open.clear()
    first = start_worker(stack, index, tmp_path / "one")
    with stack.client() as client:
        deploy(client, source("greeter"))
        first.event("build_started")
        until(lambda: any(path.startswith("/files/") for path in index.seen))
        first.process.send_signal(signal.SIGKILL)
        index.open.set()
        second = start_worker(stack, index, tmp_path / "two")
        assert second.event("build_started")["attempt"] == 2
        until(lambda: version(client, 1)["state"] == "active")
        assert client.post("/v1/functions/hello/invoke").json() == "1.0"
        second.stop()
        index.add_wheel("greeter", "2.0")
        third = start_worker(stack, index, tmp_path / "three")
        assert client.post("/v1/functions/hello/invoke").json() == "1.0"
        third.event("packages")
        assert PASSWORD not in "".join([*first.lines, *second.lines, *third.lines])


class Deploying:
    """One `sandlot deploy`; `answer` is its stdout.

    `says` waits for text on stderr, which may be a terminal.
    """

    def __init__(self, stack: Stack, path: Path, *, terminal: bool) -> None:
        self._stderr, inside = pty.openpty() if terminal else os.pipe()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandlot", "deploy", str(path)],
            env=environment | {"SANDLOT_URL": stack.url, "SANDLOT_KEY": stack.key, "TERM": "xterm", "COLUMNS": "40"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=inside,
        )
        os.close(inside)
        self.text = ""

    def says(self, words: str) -> None:
        while words not in self.text:
            assert self._read(), self.text

    def end(self) -> tuple[int, str]:
        """Exit status and answer."""
        while self._read():
            pass
        os.close(self._stderr)
        answer, _ = self._process.communicate(timeout=HANG_S)
        return self._process.returncode, answer.decode()

    def _read(self) -> bool:
        """False at the end, which of a terminal is an error on Linux."""
        try:
            read = os.read(self._stderr, 4096)
        except OSError:
            return False
        self.text += read.decode()
        return bool(read)


def test_deploy_prints_each_step_on_stderr_and_the_result_on_stdout(stack: Stack, index: Index, tmp_path: Path) -> None:
    path = tmp_path / "hello.py"
    path.write_text(source("greeter"))
    index.open.clear()
    piped = Deploying(stack, path, terminal=False)
    piped.says("hello version 1: dependencies: waiting for a worker\n")
    start_worker(stack, index, tmp_path / "one")
    piped.says("hello version 1: dependencies: resolving\n")
    index.open.set()
    assert piped.end() == (0, "hello version 1\n")
    assert "\x1b" not in piped.text

    index.open.clear()
    path.write_text(source("greeter<2"))
    shown = Deploying(stack, path, terminal=True)
    shown.says("hello version 2: dependencies: resolving")
    index.open.set()
    assert shown.end() == (0, "hello version 2\n")
    assert re.search(r"\x1b\[2mhello version 2: dependencies: resolving\x1b\[0m\r\n", shown.text)

    path.write_text(source("greeter>=5"))
    failing = Deploying(stack, path, terminal=False)
    assert failing.end() == (2, "")
    assert "error hello version 3: its dependencies cannot be installed; version 2 still serves\n" in failing.text
    assert re.search(r"there is no version of greeter|greeter>=5", failing.text)
    assert PASSWORD not in failing.text

    path = path.rename(tmp_path / "first.py")
    assert Deploying(stack, path, terminal=False).end() == (2, "")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
    shown = subprocess.run(
        [sys.executable, "-m", "sandlot", "functions"],
        env=environment | {"SANDLOT_URL": stack.url, "SANDLOT_KEY": stack.key, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert re.search(r"^first +1 \(failed\) +python .*\nhello +2 +python ", shown.stdout, re.MULTILINE), shown
