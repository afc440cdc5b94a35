"""The Python runtime, without walls: what handlers may look like, what they are given, and how each thing they do is answered."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.runtime_process import PATIENCE_S, RuntimeProcess

Start = Callable[..., RuntimeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Write files into a bundle and start a Python runtime on it."""
    started: list[RuntimeProcess] = []

    def make(main: str = "", **files: str) -> RuntimeProcess:
        for name, text in ({"main.py": main} if main else {}).items() | files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        started.append(RuntimeProcess("python", tmp_path))
        return started[-1]

    yield make
    for process in started:
        process.close()


def answer_of(start: Start, body: str, event: object = None) -> tuple[bytes, Any]:
    """The answer of a handler with this body."""
    process = start("def handler(event, context):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    assert process.load()["ok"]
    return process.call(event)


# Forms.


def test_a_plain_function_answers(start: Start) -> None:
    assert answer_of(start, "return {'got': event}", [1, "ä", None]) == (b"O", {"got": [1, "ä", None]})


def test_a_coroutine_function_answers_on_one_loop_for_the_life_of_the_process(start: Start) -> None:
    process = start(
        "import asyncio\nasync def handler(event, context):\n    await asyncio.sleep(0)\n    return id(asyncio.get_running_loop())\n"
    )
    assert process.load()["ok"]
    assert process.call() == process.call()


def test_an_awaitable_object_is_awaited(start: Start) -> None:
    body = "class Later:\n    def __await__(self):\n        yield from ()\n        return 'late'\nreturn Later()"
    assert answer_of(start, body) == (b"O", "late")


def test_a_plain_function_may_run_its_own_loop(start: Start) -> None:
    assert answer_of(start, "import asyncio\nasync def f(): return 3\nreturn asyncio.run(f())") == (b"O", 3)


def test_a_callable_object_answers(start: Start) -> None:
    process = start("class H:\n    def __call__(self, event, context): return event\nhandler = H()\n")
    assert process.load()["ok"]
    assert process.call(5) == (b"O", 5)


@pytest.mark.parametrize(
    "source",
    [
        "def handler(event, context, more=None): return event\n",
        "def handler(event, context, /, *, key=1): return event\n",
        "def handler(*given): return given[0]\n",
        "def handler(event=None, context=None): return event\n",
        "import functools\nhandler = functools.partial(lambda a, event, context: event, 1)\n",
        "import functools\ndef inner(event, context): pass\n@functools.wraps(inner)\ndef handler(*given): return given[0]\n",
    ],
)
def test_any_callable_of_two_arguments_is_a_handler(start: Start, source: str) -> None:
    process = start(source)
    assert process.load()["ok"]
    assert process.call(5) == (b"O", 5)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("", "main.py"),
        ("", "only.py"),
        ("app.handler", "app.py"),
        ("app.py.handler", "app.py"),
        ("src/app.handler", "src/app.py"),
    ],
)
def test_the_handler_is_found_by_name_or_by_being_the_only_file(start: Start, name: str, file: str) -> None:
    process = start(**{file: "def handler(event, context): return __name__\n"})
    assert process.load(name)["ok"]
    assert process.call()[0] == b"O"


def test_dependencies_beside_the_function_can_be_imported(start: Start) -> None:
    process = start(
        "import mine, theirs\ndef handler(event, context): return [mine.A, theirs.B]\n",
        **{"mine.py": "A = 1\n", "site-packages/theirs.py": "B = 2\n"},
    )
    assert process.load()["ok"]
    assert process.call() == (b"O", [1, 2])


# What cannot be loaded.


@pytest.mark.parametrize(
    ("source", "handler", "type_", "words"),
    [
        ("def handler(event, context)\n    pass\n", "", "SyntaxError", "main.py, line 1"),
        ("import nothing_like_it\n", "", "ModuleNotFoundError", "nothing_like_it"),
        ("1 / 0\n", "", "ZeroDivisionError", "division by zero"),
        ("def other(event, context): pass\n", "", "ImportError", "has no 'handler': it defines other"),
        ("handler = 5\n", "", "ImportError", "of type int, not a function"),
        ("def handler(event): pass\n", "", "ImportError", "must take two arguments"),
        ("def handler(event, context, more): pass\n", "", "ImportError", "must take two arguments"),
        ("def handler(event, context, *, key): pass\n", "", "ImportError", "must take two arguments"),
        ("def handler(event, context): yield 1\n", "", "ImportError", "is a generator"),
        ("async def handler(event, context): yield 1\n", "", "ImportError", "is a generator"),
        ("x = 1\n", "nope.handler", "ImportError", "the bundle has no module 'nope'"),
        ("x = 1\n", "handler", "ImportError", "bad handler 'handler'"),
        ("x = 1\n", "json.loads", "ImportError", "the name of a standard module"),
    ],
)
def test_a_function_that_cannot_be_loaded_reports_why(
    start: Start, source: str, handler: str, type_: str, words: str
) -> None:
    ready = start(source).load(handler)
    assert (ready["ok"], ready["kind"], ready["errorType"]) == (False, "import_error", type_)
    assert words in ready["errorMessage"]


def test_a_syntax_error_has_its_line_in_the_stack(start: Start) -> None:
    ready = start("x = 1\ny = = 2\n").load()
    assert "line 2" in ready["stackTrace"][0]
    assert "y = = 2" in ready["stackTrace"][0]


def test_a_missing_dependency_is_not_called_a_missing_handler(start: Start) -> None:
    ready = start("import mai\n").load("main.handler")
    assert ready["errorMessage"] == "No module named 'mai'"


def test_leaving_while_importing_ends_the_process_with_that_status(start: Start) -> None:
    process = start("import sys\nsys.exit(4)\n")
    with pytest.raises(EOFError):
        process.load()
    assert process.status() == 4


def test_another_protocol_is_refused(start: Start) -> None:
    assert "speaks protocol 1, not 9" in start("def handler(e, c): pass\n").load(protocol=9)["errorMessage"]


# Errors.


def test_an_exception_has_type_message_and_user_frames_only(start: Start) -> None:
    process = start("def inner():\n    raise ValueError('no ä')\ndef handler(event, context):\n    inner()\n")
    process.load()
    kind, error = process.call()
    assert (kind, error["kind"], error["errorType"], error["errorMessage"]) == (b"E", "error", "ValueError", "no ä")
    assert [frame.split(", ", 1)[1] for frame in error["stackTrace"]] == [
        "line 4, in handler\n    inner()\n",
        "line 2, in inner\n    raise ValueError('no ä')\n",
    ]


def test_frames_of_the_standard_library_are_left_out(start: Start) -> None:
    _, error = answer_of(start, "import json\njson.loads('{')")
    assert len(error["stackTrace"]) == 1


def test_causes_come_before_what_they_caused(start: Start) -> None:
    _, error = answer_of(start, "try:\n    {}['k']\nexcept KeyError as e:\n    raise RuntimeError('outer') from e")
    text = "\n".join(error["stackTrace"])
    assert text.index("{}['k']") < text.index("KeyError: 'k' [directly caused]") < text.index("raise RuntimeError")


def test_an_exception_group_lists_its_members(start: Start) -> None:
    _, error = answer_of(start, "raise ExceptionGroup('both', [ValueError('a'), KeyError('b')])")
    assert error["stackTrace"][-2:] == ["+ ValueError: a", "+ KeyError: 'b'"]


def test_endless_recursion_is_an_error_with_a_short_stack(start: Start) -> None:
    process = start("def handler(event, context):\n    return handler(event, context)\n")
    process.load()
    _, error = process.call()
    assert error["errorType"] == "RecursionError"
    assert any("frames …" in frame for frame in error["stackTrace"])
    assert process.call()[0] == b"E"  # and it is still there


@pytest.mark.parametrize(
    "body",
    [
        "class Bad(Exception):\n    def __str__(self): raise SystemExit(9)\nraise Bad()",
        "raise ValueError('x' * 50_000_000)",
        "raise ValueError('\\ud800')",
        "e = ValueError('loop')\ne.__cause__ = e\nraise e",
        "raise type('T' * 100_000, (Exception,), {})()",
    ],
)
def test_hostile_exceptions_are_still_small_errors(start: Start, body: str) -> None:
    kind, error = answer_of(start, body)
    assert kind == b"E"
    assert len(json.dumps(error)) < 256 * 1024


@pytest.mark.parametrize("thrown", ["KeyboardInterrupt()", "GeneratorExit()", "BaseException('b')"])
def test_exceptions_that_are_not_errors_are_answers_too(start: Start, thrown: str) -> None:
    assert answer_of(start, f"raise {thrown}")[1]["kind"] == "error"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise MemoryError()", "memory"),
        ('import threading\nraise RuntimeError("can\'t start new thread")', "processes"),
        ("import os, errno\nfork = None\nraise BlockingIOError(errno.EAGAIN, 'x')  # fork", "processes"),
        ("import errno\nraise BlockingIOError(errno.EAGAIN, 'x')", "error"),
    ],
)
def test_refused_resources_are_distinguished_from_errors(start: Start, body: str, kind: str) -> None:
    assert answer_of(start, body)[1]["kind"] == kind


# Ends.


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("raise SystemExit", 0),
        ("import sys\nsys.exit(3)", 3),
        ("import os\nos._exit(5)", 5),
        ("import sys\nsys.exit('bye')", 1),
    ],
)
def test_leaving_ends_the_process_and_answers_nothing(start: Start, body: str, status: int) -> None:
    process = start("def handler(event, context):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    process.load()
    process.request()
    with pytest.raises(EOFError):
        process.receive()
    assert process.status() == status


def test_the_process_ends_when_the_worker_closes(start: Start) -> None:
    process = start("def handler(event, context): pass\n")
    process.load()
    process.control.close()
    assert process.status() == 0


# Results.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return {'a': [1, float('nan')]}", "result['a'][1] is nan"),
        ("return {'when': __import__('datetime').datetime(2026, 1, 1)}", "result['when'] is of type datetime"),
        ("return {(1, 2): 3}", "result has a key of type tuple"),
        ("return b'raw'", "result is of type bytes"),
        ("return ['\\ud800']", "result[0] is text with a lone surrogate"),
        ("return 10 ** 5000", "more than 4,300 digits"),
        ("x = []\nx.append(x)\nreturn x", "contains itself"),
        ("x = 0\nfor _ in range(100_000): x = [x]\nreturn x", "nested too deeply"),
        ("return (n for n in [1])", "returned a generator"),
        ("class D(dict):\n    def items(self): raise ValueError('gotcha')\nreturn D(a=1)", "gotcha"),
    ],
)
def test_a_result_that_is_not_json_is_reported_with_its_path(start: Start, body: str, words: str) -> None:
    kind, error = answer_of(start, body)
    assert (kind, error["kind"]) == (b"E", "bad_result")
    assert words in error["errorMessage"]


def test_a_result_above_the_limit_is_refused_with_both_sizes(start: Start) -> None:
    process = start("def handler(event, context): return 'x' * event\n")
    process.load(result_limit_bytes=1000)
    assert process.call(998)[0] == b"O"
    kind, error = process.call(999)
    assert (kind, error["kind"]) == (b"E", "bad_result")
    assert "1001 bytes" in error["errorMessage"]


@pytest.mark.slow
def test_six_mebibytes_go_in_and_out(start: Start) -> None:
    process = start("def handler(event, context): return event\n")
    process.load()
    text = "ö" * (3 * 1024 * 1024 - 1)
    assert process.call(text) == (b"O", text)


# Context, environment, logs.


def test_the_context_has_lambdas_fields_and_the_job(start: Start) -> None:
    fields = [
        "function_name",
        "function_version",
        "aws_request_id",
        "memory_limit_in_mb",
        "invoked_function_arn",
        "job_id",
        "attempt",
        "traceparent",
    ]
    body = f"left = context.get_remaining_time_in_millis()\nreturn [[getattr(context, f) for f in {fields!r}], 0 < left <= 5000]"
    process = start("def handler(event, context):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    process.load()
    arn = "arn:aws:lambda:local:000000000000:function:fn:7"
    assert process.call(attempt=2, traceparent="00-ab-cd-01")[1] == [
        ["fn", "7", "job-1", 256, arn, "job-1", 2, "00-ab-cd-01"],
        True,
    ]


def test_the_client_context_is_the_callers(start: Start) -> None:
    body = "c = context.client_context\nreturn None if c is None else [c.custom, c.env]"
    process = start("def handler(event, context):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    process.load()
    assert process.call(request={"client_context": {"custom": {"k": 1}, "env": {"l": "de"}}}) == (
        b"O",
        [{"k": 1}, {"l": "de"}],
    )
    assert process.call() == (b"O", None)


def test_the_environment_is_set_before_the_import(start: Start) -> None:
    process = start("import os\nX = os.environ['COLOUR']\ndef handler(event, context): return X\n")
    process.load(environment={"COLOUR": "blue"})
    assert process.call() == (b"O", "blue")


def test_output_is_in_the_pipe_before_the_answer(start: Start) -> None:
    body = "import sys\nprint('out', end='')\nprint('err', end='', file=sys.stderr)"
    process = start("def handler(event, context):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    process.load()
    for _ in range(20):
        process.call()
        assert process.logs() in ("outerr", "errout")


def test_closed_streams_do_not_prevent_an_answer(start: Start) -> None:
    assert answer_of(start, "import sys\nsys.stdout.close()\nsys.stderr = None\nreturn 1") == (b"O", 1)


def test_state_stays_between_calls(start: Start) -> None:
    process = start("n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n\n")
    process.load()
    assert [process.call()[1] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("isolation", ["reuse", "fork"])
def test_it_reports_the_running_line_when_asked(start: Start, isolation: str) -> None:
    process = start(
        "def inner():\n    print('looping', flush=True)\n    while True: pass\ndef handler(event, context):\n    inner()\n"
    )
    process.load(isolation=isolation)
    process.request()
    deadline = time.monotonic() + PATIENCE_S
    while "looping" not in process.logs():
        assert time.monotonic() < deadline
    os.kill(process.process.pid, signal.SIGINT)
    text = ""
    while "line 5 in handler" not in text:
        text += os.read(process.trace_fd, 65536).decode()
    assert "line 3 in inner" in text


# Fork.


@pytest.fixture
def counting(start: Start) -> RuntimeProcess:
    process = start(
        "import os\nn = 0\nborn = os.getpid()\n"
        "def handler(event, context):\n    global n\n    n += 1\n    print('call')\n    exec(event or '')\n"
        "    return [n, os.getpid() == born, os.getpid()]\n"
    )
    assert process.load(isolation="fork")["ok"]
    return process


def test_every_call_has_a_fresh_copy_of_the_imported_state(counting: RuntimeProcess) -> None:
    answers = [counting.call() for _ in range(5)]
    assert [kind for kind, _ in answers] == [b"O"] * 5
    assert [(n, same) for _, (n, same, _) in answers] == [(1, False)] * 5
    assert len({pid for _, (_, _, pid) in answers}) == 5
    assert counting.logs() == "call\n" * 5


def test_a_forked_call_passes_large_events_and_results(start: Start) -> None:
    process = start("def handler(event, context): return event\n")
    process.load(isolation="fork")
    assert process.call("x" * 6_000_000) == (b"O", "x" * 6_000_000)


@pytest.mark.parametrize(
    ("code", "status"),
    [("os._exit(3)", 3), ("raise SystemExit(4)", 4), ("os.abort()", -6), ("os.kill(os.getpid(), 9)", -9)],
)
def test_the_end_of_a_forked_call_is_the_end_of_the_process(counting: RuntimeProcess, code: str, status: int) -> None:
    counting.request(code)
    with pytest.raises(EOFError):
        counting.receive()
    counting.order_judgement()
    assert counting.status() == status


def test_a_request_waits_for_its_child(counting: RuntimeProcess) -> None:
    """The worker never waits for a fork: it may send as soon as it has made the pair."""
    os.kill(counting.process.pid, signal.SIGSTOP)
    counting.order_next()
    counting.request()
    os.kill(counting.process.pid, signal.SIGCONT)
    kind, body = counting.receive()
    assert (kind, json.loads(body)[:2]) == (b"O", [1, False])


def test_a_child_that_cannot_be_made_is_an_answer_and_the_next_call_gets_one(start: Start) -> None:
    process = start(
        "import os, errno\nfork, refused = os.fork, 2\n"
        "def scarce():\n"
        "    global refused\n"
        "    refused -= 1\n"
        "    if refused >= 0: raise BlockingIOError(errno.EAGAIN, 'no process')\n"
        "    return fork()\n"
        "os.fork = scarce\n"
        "def handler(event, context): return event\n"
    )
    process.load(isolation="fork")
    kind, error = process.call(1)
    assert (kind, error["kind"]) == (b"E", "processes")
    assert process.call(2) == (b"O", 2)
