"""The commands of docs/upgrades.md for Compose, run by a shell as they are written, beside a `docker` that writes down what it is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import HANG_S

REPOSITORY: Final = Path(__file__).resolve().parents[3]
OLD: Final = "0ld1 0ld2"
DOCKER: Final = f"""
docker() {{ echo "docker $*" >> "$TOLD"; if [ "$1" = ps ]; then echo {OLD}; fi; }}
sleep() {{ echo "sleep $*" >> "$TOLD"; }}
"""
READY: Final = 'GET /readyz: {"python":4}'


@contextmanager
def readyz(workers: Sequence[int], told: Path) -> Iterator[int]:
    """The port of an API that says of each request that it came, and how many workers it answered with; the last number for ever."""
    left = list(workers)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            table = f'{{"python":{left.pop(0) if len(left) > 1 else left[0]}}}'
            with told.open("a") as file:
                file.write(f"GET {self.path}: {table}\n")
            body = json.dumps({"status": "ready", "workers": json.loads(table)}, separators=(",", ":")).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


def replacing_workers() -> str:
    text = (REPOSITORY / "docs" / "upgrades.md").read_text(encoding="utf-8")
    section = text.partition("### With Compose")[2].partition("\n## ")[0]
    return re.findall(r"(?ms)^```sh\n(.*?)^```", section)[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands ask with curl, which is not here")
def test_old_workers_are_stopped_when_the_api_has_counted_the_new_ones_and_not_before(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with readyz([2, 2, 3, 4], told) as port:
        commands = replacing_workers().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        words = ["bash", "-euc", DOCKER + commands]
        subprocess.run(words, env={"PATH": "/usr/bin:/bin", "TOLD": str(told)}, check=True, timeout=HANG_S)
    lines = told.read_text().splitlines()
    assert [line.split(" --")[0] for line in lines] == [
        "docker ps",
        "docker compose up",
        'GET /readyz: {"python":2}', "sleep 1",
        'GET /readyz: {"python":2}', "sleep 1",
        'GET /readyz: {"python":3}', "sleep 1",
        READY,
        f"docker stop -t 75 {OLD}",
        f"docker rm {OLD}",
    ]  # fmt: skip
