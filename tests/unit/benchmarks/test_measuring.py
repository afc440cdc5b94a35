"""The benchmark reads what wrk, /proc, marks and HTTP replies say, and does its sums rightly."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import load, process_tree, stages
from benchmarks.call_path import PROJECT, own_files
from benchmarks.drains import parse_marks, rate
from benchmarks.load import LoadFailed
from benchmarks.process_tree import Process
from benchmarks.submitter import SubmitFailed, parse_reply, request_bytes
from benchmarks.workloads import ECHO

WRK_OUTPUT = """Running 2s test @ http://127.0.0.1:8000/hello
  1 threads and 64 connections
  31000 requests in 2.00s, 4.90MB read
Requests/sec:  15500.00
{"requests":31000,"duration_us":2000000,"p50_us":3900,"p99_us":7710,"max_us":9000,"connect":0,"read":1,"write":0,"timeout":2,"status":4}
"""


def process(pid: int, parent: int, cpu_ticks: int = 0) -> Process:
    return Process(pid=pid, parent=parent, state="S", cpu_ticks=cpu_ticks, started_ticks=1)


def test_wrk_report_is_found_between_its_own_lines() -> None:
    found = load.parse_report(WRK_OUTPUT)
    assert (found.requests, found.duration_s, found.p50_ms, found.p99_ms) == (31000, 2.0, 3.9, 7.71)
    assert found.per_s == 15500


def test_every_kind_of_error_counts() -> None:
    assert load.parse_report(WRK_OUTPUT).errors == 7


def test_output_without_a_report_is_a_failure_that_quotes_it() -> None:
    with pytest.raises(LoadFailed, match="unable to connect"):
        load.parse_report("unable to connect to 127.0.0.1:1 Connection refused")


def test_stat_line_with_a_hostile_command_name() -> None:
    """A process may call itself "a) R 1 (b"; only the last parenthesis ends the name (proc_pid_stat(5))."""
    fields = ["S", "7", *["0"] * 9, "10", "20", "30", "40", *["0"] * 4, "12345", *["0"] * 30]
    found = process_tree.parse_stat(f"42 (a) R 1 (b) {' '.join(fields)}")
    assert found == Process(pid=42, parent=7, state="S", cpu_ticks=100, started_ticks=12345)


def test_own_stat_line_parses() -> None:
    with open("/proc/self/stat", encoding="utf-8") as stat:
        assert process_tree.parse_stat(stat.read()).pid == os.getpid()


def test_descendants_are_the_whole_tree_below_and_nothing_beside_it() -> None:
    processes = {
        one.pid: one for one in (process(1, 0), process(10, 1), process(11, 10), process(12, 11), process(20, 1))
    }
    assert process_tree.descendants(processes, 10) == [11, 12]
    assert process_tree.descendants(processes, 20) == []


def test_cpu_of_a_tree_is_the_sum_of_its_processes() -> None:
    ticks = process_tree.TICKS_PER_S
    processes = {1: process(1, 0, 3 * ticks), 2: process(2, 1, ticks // 2), 3: process(3, 1, 100 * ticks)}
    assert process_tree.cpu_s(processes, [1, 2]) == pytest.approx(3.5)


def test_a_reaped_child_leaves_the_sum_unchanged() -> None:
    """What a child used moves into its parent's own count when it is reaped, so no work is lost between two readings."""
    before = {1: process(1, 0, 50), 2: process(2, 1, 30)}
    after = {1: process(1, 0, 80)}
    assert process_tree.cpu_s(before, before) == process_tree.cpu_s(after, after)


def test_own_memory_is_exact_and_positive() -> None:
    found = process_tree.memory([os.getpid()])
    assert found.exact
    assert found.bytes > 1024 * 1024


def test_marks_ignore_a_line_still_being_written() -> None:
    assert parse_marks(["0 10.0\n", "50 10.5\n", "100 1"]) == [(0, 10.0), (50, 10.5)]


def test_rate_runs_from_the_first_mark_to_the_highest() -> None:
    assert rate([(0, 10.0), (50, 10.5), (100, 11.0)]) == pytest.approx(100.0)


def test_one_sample_gives_no_rate() -> None:
    with pytest.raises(ValueError, match="too few"):
        rate([(0, 1.0)])


def test_echo_event_is_one_kilobyte_of_json() -> None:
    assert len(ECHO.event) == 1024
    assert json.loads(ECHO.event) == ECHO.answer


def test_submit_request_states_its_length_and_asks_for_202() -> None:
    request = request_bytes("http://127.0.0.1:8000/v1/functions/noop/invoke", "{}")
    assert request.startswith(b"POST /v1/functions/noop/invoke HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert b"\r\nPrefer: respond-async\r\n" in request
    assert request.endswith(b"\r\nContent-Length: 2\r\n\r\n{}")


def test_reply_is_read_only_when_its_body_is_complete() -> None:
    reply = b"HTTP/1.1 202 Accepted\r\nlocation: /v1/jobs/7\r\ncontent-length: 4\r\n\r\nnull"
    assert parse_reply(reply[:30]) is None
    assert parse_reply(reply[:-1]) is None
    assert parse_reply(reply + b"HTTP/1.1") == ("/v1/jobs/7", len(reply))


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 429 Too Many Requests\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_anything_but_an_accepted_job_is_refused(reply: bytes) -> None:
    with pytest.raises(SubmitFailed, match="not a 202 with a Location"):
        parse_reply(reply)


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["/x/python", "-P", "-m", "api"], "API"),
        (["/x/python", "-P", "-m", "worker"], "worker"),
        (["/x/valkey-server", "--port", "0"], "Valkey"),
        (["/x/python", "/x/sandlot", "up", "--port", "1"], "sandlot up"),
        (["/x/python", "-I", "/x/zygote"], "sandboxes"),
        ([], "sandboxes"),
    ],
)
def test_each_process_of_sandlot_has_its_role(argv: list[str], role: str) -> None:
    assert stages.role_of(argv) == role


def test_cpu_by_role_adds_up_to_the_tree() -> None:
    ticks = process_tree.TICKS_PER_S
    processes = {1: process(1, 0, ticks), 2: process(2, 1, 2 * ticks), 3: process(3, 2, 3 * ticks)}
    found = stages.cpu_by_role(processes, {1: "API", 2: "worker", 3: "worker", 4: "sandboxes"})
    assert found["API"] == pytest.approx(1.0)
    assert found["worker"] == pytest.approx(5.0)
    assert sum(found.values()) == pytest.approx(6.0)


def test_server_timing_is_read_by_name() -> None:
    assert stages.parse_server_timing("queued;dur=0.12, run;dur=0.5,total; dur=1") == {
        "queued": 0.12,
        "run": 0.5,
        "total": 1.0,
    }


def test_own_time_adds_up_the_lines_of_one_function() -> None:
    raw = ["run (/r/a.py:1);step (/r/b.py:10) 3", "run (/r/a.py:1);step (/r/b.py:12) 1", "run (/r/a.py:2) 4", ""]
    assert stages.own_time(raw, "/r") == [("step (b.py)", 0.5), ("run (a.py)", 0.5)]


def test_idle_threads_are_no_one_s_own_time() -> None:
    raw = ["start (threading.py:1);_worker (concurrent/futures/thread.py:81) 9", "run (/r/a.py:2) 1"]
    assert stages.own_time(raw, "/r") == [("run (a.py)", 1.0)]


def test_command_stats_are_per_call_and_sorted_by_time() -> None:
    text = "# Commandstats\r\ncmdstat_get:calls=4,usec=4,usec_per_call=1.00\r\ncmdstat_evalsha:calls=2,usec=100,usec_per_call=50.00\r\n"
    assert stages.parse_command_stats(text, calls=8) == [("evalsha", 0.25, 50.0), ("get", 0.5, 1.0)]


def test_a_call_path_names_each_file_of_ours_once_by_first_entry() -> None:
    paths = ["/usr/lib/python3/asyncio/events.py", "api/auth.py", "sandlot/models.py", "api/auth.py", "tests/x.py"]
    entries = [(float(at), str(PROJECT / path)) for at, path in enumerate(paths)]
    assert own_files(entries) == ["api/auth.py", "sandlot/models.py"]
