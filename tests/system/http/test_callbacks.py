"""Callbacks through a real API and a real worker whose network has a public address."""

from __future__ import annotations

import base64
import ctypes
import http.server
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.chaos.launch import CLONE_NEWNET
from tests.chaos.parts import LAUNCH
from tests.system.http.conftest import SOURCES, Stack
from tests.system.lan import NAMESPACES, Lan, lan, why_not
from tests.waiting import until

PUBLIC = "93.184.215.14"
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
CALLBACKS = {"SANDLOT_CALLBACK_HOSTS": f"{PUBLIC}:8080,*", "SANDLOT_CALLBACK_SECRET": SECRET}


class Told(http.server.BaseHTTPRequestHandler):
    """Keeps what was posted, and is content."""

    received: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the test's terminal."""


def listen_there(path: str, address: tuple[str, int]) -> socket.socket:
    """A listening socket of another network namespace: a socket stays where it was made."""
    made: list[socket.socket] = []

    def make() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        assert ctypes.CDLL(None).setns(descriptor, CLONE_NEWNET) == 0
        os.close(descriptor)
        made.append(socket.create_server(address))

    thread = threading.Thread(target=make)  # setns(2) moves one thread, and this one ends
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture
def elsewhere() -> Iterator[Lan]:
    if reason := why_not():
        pytest.skip(reason)
    with lan() as made:
        made.first.take_address(PUBLIC)
        yield made


@pytest.fixture
def told(elsewhere: Lan) -> Iterator[list[Any]]:
    server = http.server.ThreadingHTTPServer((PUBLIC, 8080), Told, bind_and_activate=False)
    server.socket.close()
    server.socket = listen_there(str(NAMESPACES / elsewhere.first.name), (PUBLIC, 8080))
    Told.received = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Told.received
    server.shutdown()
    thread.join()
    server.server_close()


def test_callbacks_are_posted_to_public_urls_and_never_to_internal_ones(
    own: Stack, elsewhere: Lan, told: list[Any]
) -> None:
    _, own.url = own.start_api(**CALLBACKS)
    launch = ["-IS", str(LAUNCH), str(os.getpid()), str(NAMESPACES / elsewhere.first.name), "", ""]
    own.start("worker", command=[*launch, sys.executable, "-m", "worker"], **CALLBACKS).event("worker started")
    with own.client() as client:
        source = {"source": SOURCES["fails"], "filename": "fails.py", "manifest": {}}
        client.put("/v1/functions/fails", json=source).raise_for_status()

        def call(url: str) -> str:
            headers = {"prefer": "respond-async", "x-callback-url": url}
            reply = client.post("/v1/functions/fails/invoke", json=7, headers=headers)
            assert reply.status_code == 202, reply.text
            return str(reply.json()["id"])

        def callback(job_id: str) -> dict[str, Any]:
            return dict(client.get(f"/v1/jobs/{job_id}").json()["callback"])

        job_id, inside = call(f"http://{PUBLIC}:8080/done?for=me"), call("http://localhost/")
        until(lambda: callback(job_id)["state"] == "delivered", reason=lambda: str(callback(job_id)))
        until(lambda: callback(inside)["state"] == "failed", reason=lambda: str(callback(inside)))
        assert callback(job_id) == {
            "url": f"http://{PUBLIC}:8080/done?for=me", "state": "delivered", "tries": 1, "last_status": 204,
        }  # fmt: skip
        assert (
            "has no public address" in callback(inside)["reason"] or "cannot be resolved" in callback(inside)["reason"]
        )
        [(path, headers, body)] = told
        assert path == "/done?for=me"
        data = Webhook(SECRET).verify(body, headers)["data"]
        assert (data["id"], data["function"], data["status"]) == (job_id, "fails", "failed")
        assert data["error"] == {"errorType": "ValueError", "errorMessage": "no 7"}


def test_callbacks_are_refused_when_no_host_is_allowed(anyone: httpx.Client) -> None:
    headers = {"prefer": "respond-async", "x-callback-url": "https://hooks.example.com/"}
    reply = anyone.post("/v1/functions/echo/invoke", json=1, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "callback_refused")
    assert "SANDLOT_CALLBACK_HOSTS" in reply.json()["detail"]


def test_a_worker_without_a_signing_secret_for_callbacks_does_not_start(own: Stack) -> None:
    part = own.start("worker", SANDLOT_CALLBACK_HOSTS="hooks.example.com")
    assert part.process.wait(30) == 2
    until(lambda: any("SANDLOT_CALLBACK_SECRET" in line for line in part.lines), reason=lambda: "".join(part.lines))
