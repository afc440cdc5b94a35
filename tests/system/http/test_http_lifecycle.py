"""Starting, stopping, and being without what one needs: one clear line, or one clear reply."""

import concurrent.futures
import contextlib
import http.client
import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from sandlot.functions import find_node
from tests.system.http.conftest import OwnStack, Stack
from tests.waiting import HANG_S, until


@pytest.mark.slow
def test_a_taken_port_is_one_clear_line(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        api = stack.start("api", SANDLOT_PORT=str(port))
        assert api.process.wait(30) == 2
        api.stop()
    assert len(api.lines) == 1
    assert f"127.0.0.1:{port} is taken" in api.lines[0]


@pytest.mark.slow
def test_an_unreachable_redis_is_one_clear_line(stack: Stack) -> None:
    api = stack.start("api", SANDLOT_REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    assert api.process.wait(30) == 2
    api.stop()
    assert len(api.lines) == 1
    assert "127.0.0.1:1" in api.lines[0]
    assert "hunter2" not in api.lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"SANDLOT_REDIS_URL": ""}, "SANDLOT_REDIS_URL"),
        ({"SANDLOT_PORT": "70000"}, "SANDLOT_PORT"),
        ({"SANDLOT_SIGNING_KEY": "short"}, "signing key"),
        ({"SANDLOT_KEY": "hunter2"}, "API key"),
        ({"SANDLOT_HOST": "no.such.host.invalid"}, "no.such.host.invalid"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(stack: Stack, environment: dict[str, str], word: str) -> None:
    api = stack.start("api", **environment)
    assert api.process.wait(30) == 2
    api.stop()
    assert len(api.lines) == 1, api.lines
    assert word in api.lines[0]


@pytest.mark.slow
def test_listening_on_the_network_without_keys_is_refused(own: OwnStack) -> None:
    api = own.start("api", SANDLOT_HOST="0.0.0.0", SANDLOT_KEY="", SANDLOT_INSECURE="1")
    assert api.process.wait(30) == 2
    api.stop()
    assert "without any API key" in api.lines[-1]


@pytest.mark.slow
def test_without_a_worker_a_call_is_refused_and_the_api_is_not_ready(own: OwnStack) -> None:
    _, url = own.start_api()
    with own.client(url=url) as client:
        assert client.get("/healthz").status_code == 200
        assert (client.get("/readyz").status_code, client.get("/readyz").json()["code"]) == (503, "no_worker")
        client.put("/v1/functions/echo", json={"source": "def handler(event, context):\n    return event\n"})
        reply = client.post("/v1/functions/echo/invoke")
        assert (reply.status_code, reply.json()["code"]) == (503, "no_worker")
        assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.slow
def test_without_redis_every_request_is_503_and_nothing_hangs(own: OwnStack) -> None:
    api, url = own.start_api()
    with own.client(url=url) as client:
        client.put("/v1/functions/echo", json={"source": "def handler(event, context):\n    return event\n"})
        assert client.post("/v1/functions/echo/invoke").json()["code"] == "no_worker"
        own.valkey.stop()
        calls = [
            ("POST", "/v1/functions/echo/invoke"), ("GET", "/v1/functions"), ("GET", "/v1/jobs/x"), ("DELETE", "/v1/functions/echo"),
            ("GET", "/echo"), ("GET", "/readyz"),
        ]  # fmt: skip
        for method, path in calls:
            started_s = time.monotonic()
            reply = client.request(method, path)
            assert (reply.status_code, reply.json()["code"]) == (503, "queue_unavailable"), (path, reply.text)
            assert int(reply.headers["retry-after"]) >= 1
            assert time.monotonic() - started_s < 10
        assert client.get("/healthz").status_code == 200
    assert api.process.poll() is None
    assert api.stop() == 0


@pytest.mark.slow
def test_a_stop_answers_waiting_callers_with_the_location_of_the_job(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_SHUTDOWN_GRACE_S="1.5")
    with (
        concurrent.futures.ThreadPoolExecutor() as threads,
        stack.client(url=url) as client,
        stack.client(url=url) as other,
    ):
        slow = threads.submit(client.post, "/v1/functions/sleeps/invoke", content=b"4")
        asynchronous = threads.submit(
            other.post, "/v1/functions/sleeps/invoke", content=b"4", headers={"prefer": "respond-async, wait=30"}
        )
        with stack.client(url=url) as watcher:
            while watcher.get("/readyz").json()["running"] < 2:
                pass
        started_s = time.monotonic()
        assert api.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started_s < 8
        reply, accepted = slow.result(), asynchronous.result()
    assert (reply.status_code, reply.json()["code"]) == (503, "shutting_down")
    assert accepted.status_code == 202
    with stack.client() as client:
        for location in (reply.headers["location"], accepted.headers["location"]):
            assert client.get(location + "?wait=20").json()["status"] == "succeeded"


@pytest.mark.slow
def test_a_stop_waits_for_replies_within_the_grace_period(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_SHUTDOWN_GRACE_S="10")
    with (
        concurrent.futures.ThreadPoolExecutor() as threads,
        stack.client(url=url) as client,
        stack.client(url=url) as watcher,
    ):
        call = threads.submit(client.post, "/v1/functions/sleeps/invoke", content=b"1")
        while watcher.get("/readyz").json()["running"] < 1:
            pass
        assert api.stop(signal.SIGINT) == 0
        assert (call.result().status_code, call.result().content) == (200, b"1")


@pytest.mark.slow
def test_clients_that_never_finish_their_request_do_not_hold_up_a_stop(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_SHUTDOWN_GRACE_S="1")
    parts = urlsplit(url)
    half_header = b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\nx-half"
    half_body = b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n123"
    with (
        socket.create_connection((parts.hostname, parts.port)) as one,
        socket.create_connection((parts.hostname, parts.port)) as two,
    ):
        one.sendall(half_header)
        two.sendall(half_body)
        two.settimeout(20)
        httpx.get(url + "/healthz")  # by now the server has read both
        started_s = time.monotonic()
        assert api.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started_s < 8
        assert b" 503 " in two.recv(65536).split(b"\r\n")[0]


def processes_of(url: str) -> set[str]:
    """The processes that answer: each begins its request ids with random digits of its own."""
    return {httpx.get(url + "/healthz").headers["x-request-id"].split("-")[0] for _ in range(40)}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_several_processes_share_a_port_and_a_dead_one_is_replaced(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_API_PROCESSES="2")
    until(lambda: len(processes_of(url)) == 2)
    with stack.client(url=url) as client:
        assert client.post("/v1/functions/echo/invoke", content=b"1").content == b"1"
    first = children_of(api.process.pid)
    os.kill(first[0], signal.SIGKILL)
    assert httpx.get(url + "/healthz").status_code == 200
    until(lambda: len(children_of(api.process.pid)) == 2 and len(processes_of(url)) == 2)
    children = children_of(api.process.pid)
    assert api.stop() == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
def test_sighup_replaces_the_processes(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_API_PROCESSES="2")
    until(lambda: len(processes_of(url)) == 2)
    before = set(children_of(api.process.pid))
    api.process.send_signal(signal.SIGHUP)

    def renewed() -> bool:
        assert httpx.get(url + "/healthz").status_code == 200
        now = set(children_of(api.process.pid))
        return len(now) == 2 and not now & before

    until(renewed)
    until(lambda: len(processes_of(url)) == 2)  # the kernel may give forty connections to one of them
    assert api.stop() == 0


@pytest.mark.slow
def test_a_request_on_a_kept_connection_is_answered_during_a_stop(stack: Stack) -> None:
    api, url = stack.start_api()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=HANG_S)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()
    connection.sock.sendall(b"GET /healthz HTTP/1.1\r\n")
    api.process.terminate()
    wait_for_the_end_of_listening(url)
    connection.sock.sendall(b"host: a\r\n\r\n")
    reply = http.client.HTTPResponse(connection.sock)
    reply.begin()
    assert (reply.status, reply.getheader("connection")) == (200, "close")
    connection.close()
    assert api.stop() == 0


def wait_for_the_end_of_listening(url: str) -> None:
    """Then the server has spoken to its connections."""
    host, _, port = urlsplit(url).netloc.partition(":")
    deadline_s = time.monotonic() + 10
    with contextlib.suppress(ConnectionRefusedError):
        while time.monotonic() < deadline_s:
            socket.create_connection((host, int(port)), timeout=HANG_S).close()
            time.sleep(0.01)


@pytest.mark.slow
def test_no_process_outlives_its_parent(stack: Stack) -> None:
    api, url = stack.start_api(SANDLOT_API_PROCESSES="2")
    until(lambda: len(processes_of(url)) == 2)
    children = children_of(api.process.pid)
    api.process.kill()
    until(lambda: not any(is_running(child) for child in children))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_processes_that_cannot_start_are_reported_once(stack: Stack) -> None:
    api = stack.start("api", SANDLOT_API_PROCESSES="2", SANDLOT_SIGNING_KEY="short")
    assert api.process.wait(30) == 2
    api.stop()
    assert any("signing key" in line for line in api.lines)


RAW = [
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    b"POST /v1/functions/echo/invoke HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /fn/echo?%ff%fe=%00 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nhost: a\r\nx: \xff\xfe\r\nconnection: close\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /echo HTTP/1.0\r\n\r\n",
]


def speak(url: str, *pieces: bytes) -> bytes:
    """Send the pieces and return everything received until the server closes the connection.

    On a connection that breaks during a write, the reply came before.
    """
    parts = urlsplit(url)
    answer = b""
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as wire,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        for piece in pieces:
            wire.sendall(piece)
            httpx.get(url + "/healthz")  # so that each is read by itself
        while chunk := wire.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /healthz HTTP/1.1\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(300)) + b"\r\n"],
        [b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n"],
        [b"GET /healthz?" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"],
        [b"GET /healthz HTTP/1.1\r\nx: ", *[b"a" * 30_000] * 3],
    ],
)
def test_a_head_beyond_the_limits_is_431(stack: Stack, pieces: list[bytes]) -> None:
    answer = speak(stack.url, *pieces)
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:300]
    assert b'"code":"head_too_large"' in answer


@pytest.mark.slow
def test_an_incomplete_head_is_408_and_a_silent_connection_is_closed(stack: Stack) -> None:
    started_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        half = threads.submit(speak, stack.url, b"GET /healthz HTTP/1.1\r\nx-half")
        silent = threads.submit(speak, stack.url)
        second = threads.submit(
            speak, stack.url, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /healthz HTTP/1.1\r\nx-half"
        )
        assert half.result().startswith(b"HTTP/1.1 408 ")
        assert silent.result() == b""
        assert second.result().startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in second.result()
    assert time.monotonic() - started_s < 25


@pytest.mark.parametrize("request_bytes", RAW)
def test_any_bytes_get_a_reply_below_500_or_a_closed_connection(stack: Stack, request_bytes: bytes) -> None:
    parts = urlsplit(stack.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as wire:
        wire.sendall(request_bytes)
        wire.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := wire.recv(65536):
            answer += chunk
    if answer:
        assert answer.count(b"application/problem+json") == (b" 400 " in answer.split(b"\r\n")[0])
        assert int(answer.split(b" ")[1]) < 500, answer
    assert httpx.get(stack.url + "/healthz").status_code == 200


def test_a_client_that_expects_100_continue_need_not_send_a_refused_body(stack: Stack) -> None:
    parts = urlsplit(stack.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=HANG_S)
    connection.putrequest("POST", "/v1/functions/echo/invoke")
    connection.putheader("content-length", str(10**12))
    connection.putheader("expect", "100-continue")
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413
    connection.close()


@pytest.mark.slow
def test_node_files_are_parsed_by_the_configured_node(stack: Stack, tmp_path: Path) -> None:
    used, node = tmp_path / "used", tmp_path / "node"
    node.write_text(f'#!/bin/sh\necho yes > {used}\nexec {find_node()} "$@"\n', encoding="utf-8")
    node.chmod(0o755)
    part, url = stack.start_api(SANDLOT_NODE=str(node))
    with stack.client(url=url) as client:
        reply = client.put("/v1/functions/broken", json={"source": "exports.handler = (\n", "filename": "broken.js"})
    part.stop()
    assert (reply.status_code, used.read_text(encoding="utf-8")) == (422, "yes\n")
