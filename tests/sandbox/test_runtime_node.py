"""The Node runtime, without walls: what handlers may look like, what they are given, and how each thing they do is answered."""

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
    """Write files into a bundle and start a Node runtime on it."""
    started: list[RuntimeProcess] = []

    def make(index: str = "", **files: str) -> RuntimeProcess:
        for name, text in ({"index.js": index} if index else {}).items() | files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        started.append(RuntimeProcess("node", tmp_path))
        return started[-1]

    yield make
    for process in started:
        process.close()


def answer_of(start: Start, body: str, event: object = None) -> tuple[bytes, Any]:
    """The answer of an async handler with this body."""
    process = start(
        f"export const handler = async (event, context) => {{\n{body}\n}}", **{"package.json": '{"type": "module"}'}
    )
    ready = process.load()
    assert ready["ok"], ready
    return process.call(event)


# Forms.

EXERCISE = """(event, context) => {
    return {
        "message": "it works!",
        "status": "ok "
    }
}
"""


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("index.js", "(event, context) => ({ got: event })"),
        ("index.js", "(event, context) => ({ got: event });\n"),
        ("index.js", "// says hello\n(event, context) => ({ got: event }) // done\n"),
        ("index.js", "async (event) => ({ got: event })"),
        ("index.js", "function (event) { return { got: event } }"),
        ("index.js", "function handler(event, context) { return { got: event } }\n"),
        ("index.js", "async function handler(event) { return { got: await event } }\n"),
        ("index.js", "const f = (event, context) => {\n  return { got: event }\n}\n"),
        ("index.js", "const f = (event, context) => ({ got: event })\n// the end"),
        ("index.js", "const help = (x) => x\nconst f = (event) => ({ got: help(event) })\n"),
        ("index.js", "function handler(event) { return { got: later(event) } }\nfunction later(x) { return x }\n"),
        ("index.js", "module.exports = (event) => ({ got: event })"),
        ("index.js", "const x = 1;\nmodule.exports = async (event) => ({ got: event });\n"),
        ("index.js", "exports.handler = (event) => ({ got: event })"),
        ("index.js", "module.exports.handler = async (event) => ({ got: event });\n"),
        ("index.js", "const help = (x) => x\nmodule.exports = { handler: (event) => ({ got: help(event) }) }\n"),
        ("index.js", "export const handler = async (event) => ({ got: event })\n"),
        ("index.js", "export default (event) => ({ got: event })\n"),
        (
            "index.js",
            "import { sep } from 'node:path'\nexport async function handler(event) { return { got: sep && event } }\n",
        ),
        ("index.js", "const got = await Promise.resolve(1)\nexport default (event) => ({ got: event })\n"),
        ("index.mjs", "export const handler = (event) => ({ got: event })\n"),
        ("index.mjs", "export default { handler: (event) => ({ got: event }) }\n"),
        ("index.cjs", "exports.handler = (event) => ({ got: event })\n"),
        (
            "index.js",
            "exports.handler = (event, context, callback) => { setTimeout(() => callback(null, { got: event }), 1) }",
        ),
        ("index.js", "#!/usr/bin/env node\nconst f = (event) => ({ got: event })\n"),
    ],
)
def test_every_form_of_handler_answers(start: Start, file: str, source: str) -> None:
    process = start(**{file: source})
    ready = process.load()
    assert ready["ok"], ready
    assert process.call({"ä": [1, None]}) == (b"O", {"got": {"ä": [1, None]}})


def test_the_exercises_function_runs_unchanged(start: Start) -> None:
    process = start(EXERCISE)
    assert process.load()["ok"]
    assert process.call({}) == (b"O", {"message": "it works!", "status": "ok "})


@pytest.mark.parametrize("name", ["", "greet.handler", "greet.js", "greet", "greet.js.handler"])
def test_a_file_is_named_with_or_without_suffix(start: Start, name: str) -> None:
    process = start(**{"greet.js": "(event) => 'hi'"})
    assert process.load(name)["ok"]
    assert process.call() == (b"O", "hi")


@pytest.mark.parametrize(
    "source", ["exports.two = () => 2; exports.handler = () => 1", "const two = () => 2\nconst handler = () => 1\n"]
)
def test_another_function_of_the_file_can_be_named(start: Start, source: str) -> None:
    process = start(source)
    assert process.load("index.two")["ok"]
    assert process.call() == (b"O", 2)


def test_a_bundle_requires_and_imports_its_own_files_and_modules(start: Start) -> None:
    process = start(
        "const { a } = require('./lib/a.js'); const b = require('b');\nexports.handler = async () => [a, b, (await import('./c.mjs')).c]",
        **{"lib/a.js": "exports.a = 1", "node_modules/b/index.js": "module.exports = 2", "c.mjs": "export const c = 3"},
    )
    ready = process.load()
    assert ready["ok"], ready
    assert process.call() == (b"O", [1, 2, 3])


def test_a_file_is_run_once(start: Start) -> None:
    process = start("globalThis.runs = (globalThis.runs ?? 0) + 1\nconst f = () => globalThis.runs\n")
    process.load()
    assert process.call() == (b"O", 1)


# What cannot be loaded.


@pytest.mark.parametrize(
    ("source", "handler", "type_", "words"),
    [
        ("const x = ;\n", "", "SyntaxError", "Unexpected token ';'"),
        ("import x from 'nowhere'\nexport const handler = () => x\n", "", "Error", "nowhere"),
        ("require('nowhere')\n", "", "Error", "nowhere"),
        ("throw new TypeError('early')\n", "", "TypeError", "early"),
        ("exports.other = () => 1\n", "", "ImportError", "has no 'handler': it has other"),
        ("exports.handler = 5\n", "", "ImportError", "of type number, not a function"),
        ("5", "", "ImportError", "of type number, not a function"),
        ("const x = 1\n", "", "ImportError", "it exports nothing"),
        ("export const handler = function* () {}\n", "", "ImportError", "is a generator"),
        ("(e) => e", "nope.handler", "ImportError", "the bundle has no file 'nope'"),
        ("await new Promise(() => {})\nexport const handler = () => 1\n", "", "ImportError", "never settles"),
    ],
)
def test_a_function_that_cannot_be_loaded_reports_why(
    start: Start, source: str, handler: str, type_: str, words: str
) -> None:
    ready = start(source).load(handler)
    assert (ready["ok"], ready["kind"], ready["errorType"]) == (False, "import_error", type_)
    assert words in ready["errorMessage"]


@pytest.mark.parametrize("file", ["index.js", "index.mjs", "index.cjs"])
def test_a_syntax_error_has_its_line_in_the_stack(start: Start, file: str) -> None:
    ready = start(**{file: "const x = 1\nconst y = = 2\n"}).load()
    assert f"{file}:2" in ready["stackTrace"][0]


def test_leaving_while_importing_ends_the_process_with_that_status(start: Start) -> None:
    process = start("process.exit(4)\n")
    with pytest.raises(EOFError):
        process.load()
    assert process.status() == 4


def test_another_protocol_is_refused(start: Start) -> None:
    assert "speaks protocol 1, not 9" in start("(e) => e").load(protocol=9)["errorMessage"]


# Errors.


@pytest.mark.parametrize("how", ["throw new RangeError('no ä')", "return Promise.reject(new RangeError('no ä'))"])
@pytest.mark.parametrize("form", ["(event, context) => {\n%s\n}", "async (event, context) => {\n%s\n}"])
def test_an_error_has_type_message_and_user_frames_only(start: Start, form: str, how: str) -> None:
    process = start(form % how)
    process.load()
    kind, error = process.call()
    assert (kind, error["kind"], error["errorType"], error["errorMessage"]) == (b"E", "error", "RangeError", "no ä")
    assert "index.js:2:" in error["stackTrace"][-1]
    assert all("index.js" in frame for frame in error["stackTrace"])


@pytest.mark.parametrize(
    ("thrown", "type_", "message"),
    [
        ("'text'", "string", "text"),
        ("{a: 1}", "object", '{"a":1}'),
        ("null", "null", "null"),
        ("undefined", "undefined", "undefined"),
        ("7n", "bigint", "7"),
    ],
)
def test_anything_can_be_thrown(start: Start, thrown: str, type_: str, message: str) -> None:
    _, error = answer_of(start, f"throw {thrown}")
    assert (error["errorType"], error["errorMessage"]) == (type_, message)


def test_causes_come_before_what_they_caused(start: Start) -> None:
    _, error = answer_of(start, "throw new Error('outer', { cause: new TypeError('inner') })")
    assert any("TypeError: inner [cause]" in line for line in error["stackTrace"][:-1])


def test_an_aggregate_error_lists_its_members(start: Start) -> None:
    _, error = answer_of(start, "return Promise.any([Promise.reject(new Error('a')), Promise.reject('b')])")
    assert error["stackTrace"][-2:] == ["+ Error: a", "+ string: b"]


def test_an_error_in_a_timer_is_the_calls_error(start: Start) -> None:
    _, error = answer_of(start, "setTimeout(() => { throw new Error('late') }, 1); await new Promise(() => {})")
    assert (error["errorType"], error["errorMessage"]) == ("Error", "late")


def test_a_promise_that_nothing_can_settle_is_an_error_at_once(start: Start) -> None:
    process = start("(event) => event ? 1 : new Promise(() => {})")
    process.load()
    kind, error = process.call(0)
    assert (kind, error["errorType"]) == (b"E", "PendingPromise")
    assert process.call(1) == (b"O", 1)


@pytest.mark.parametrize(
    "body",
    [
        "class Bad extends Error { get message() { throw 1 } get stack() { throw 2 } get name() { throw 3 } get cause() { throw 4 } }\nthrow new Bad()",
        "throw new Error('x'.repeat(50_000_000))",
        "throw new Error('\\ud800')",
        "const e = new Error('loop'); e.cause = e; throw e",
        "const o = {}; o.o = o; throw o",
        "throw { toJSON() { throw 1 } }",
        "return { then(_, reject) { reject(new Error('thenable')) } }",
    ],
)
def test_hostile_errors_are_still_small_errors(start: Start, body: str) -> None:
    kind, error = answer_of(start, body)
    assert kind == b"E"
    assert len(json.dumps(error)) < 256 * 1024


def test_a_refused_allocation_is_distinguished_from_errors(start: Start) -> None:
    assert answer_of(start, "return new ArrayBuffer(2 ** 52).byteLength")[1]["kind"] == "memory"


# Ends.


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("process.exit()", 0),
        ("process.exit(3)", 3),
        ("process.exitCode = 5; process.exit()", 5),
        ("process.abort()", -6),
    ],
)
def test_leaving_ends_the_process_and_answers_nothing(start: Start, body: str, status: int) -> None:
    process = start(f"() => {{ {body} }}")
    process.load()
    process.request()
    with pytest.raises(EOFError):
        process.receive()
    assert process.status() == status


def test_overriding_exit_changes_nothing(start: Start) -> None:
    process = start("() => { process.exit = () => {}; process.reallyExit = () => {}; process.exit(3); return 1 }")
    process.load()
    assert process.call() == (b"O", 1)
    process.control.close()
    assert process.status() == 0


# Results.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("const x = {}; x.x = x; return x", "circular"),
        ("return 1n", "BigInt"),
        ("return () => 1", "a function, which JSON cannot represent"),
        ("return Symbol('s')", "a symbol, which JSON cannot represent"),
        ("return { toJSON() { throw new Error('gotcha') } }", "gotcha"),
    ],
)
def test_a_result_that_is_not_json_is_reported_as_such(start: Start, body: str, words: str) -> None:
    kind, error = answer_of(start, body)
    assert (kind, error["kind"]) == (b"E", "bad_result")
    assert words in error["errorMessage"]


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("undefined", None),
        ("null", None),
        ("NaN", None),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("[,1]", [None, 1]),
    ],
)
def test_values_become_what_json_makes_of_them_in_javascript(start: Start, value: str, result: object) -> None:
    assert answer_of(start, f"return {value}") == (b"O", result)


def test_a_result_above_the_limit_is_refused_with_both_sizes(start: Start) -> None:
    process = start("(event) => 'x'.repeat(event)")
    process.load(result_limit_bytes=1000)
    assert process.call(998)[0] == b"O"
    kind, error = process.call(999)
    assert (kind, error["kind"]) == (b"E", "bad_result")
    assert "1001 bytes" in error["errorMessage"]


def test_six_mebibytes_go_in_and_out(start: Start) -> None:
    process = start("(event) => event")
    process.load()
    text = "ö" * (3 * 1024 * 1024 - 1)
    assert process.call(text) == (b"O", text)


# Context, environment, logs.


def test_the_context_has_lambdas_fields_and_the_job(start: Start) -> None:
    process = start("(event, context) => ({ ...context, left: context.getRemainingTimeInMillis() })")
    process.load()
    _, context = process.call(attempt=2, traceparent="00-ab-cd-01", request={"client_context": {"custom": {"k": 1}}})
    assert 0 < context.pop("left") <= 5000
    assert context == {
        "callbackWaitsForEmptyEventLoop": True,
        "functionName": "fn",
        "functionVersion": "7",
        "invokedFunctionArn": "arn:aws:lambda:local:000000000000:function:fn:7",
        "memoryLimitInMB": "256",
        "logGroupName": "/aws/lambda/fn",
        "logStreamName": "[7]job-1",
        "awsRequestId": "job-1",
        "clientContext": {"custom": {"k": 1}},
        "jobId": "job-1",
        "attempt": 2,
        "traceparent": "00-ab-cd-01",
    }


def test_the_environment_is_set_before_the_import(start: Start) -> None:
    process = start("const x = process.env.COLOUR\nconst f = () => x\n")
    process.load(environment={"COLOUR": "blue"})
    assert process.call() == (b"O", "blue")


def test_output_is_in_the_pipe_before_the_answer(start: Start) -> None:
    process = start("() => { console.log('out'); console.error('err'); process.stdout.write('raw\\n') }")
    process.load()
    for _ in range(20):
        process.call()
        assert process.logs() == "out\nerr\nraw\n"


def test_output_larger_than_a_pipe_is_written_before_the_answer(start: Start) -> None:
    process = start("() => { console.log('x'.repeat(300_000)); console.log('end') }")
    process.load()
    process.request()
    read, deadline = "", time.monotonic() + PATIENCE_S
    while not read.endswith("end\n"):
        assert time.monotonic() < deadline
        read += process.logs()
    assert len(read) == 300_005
    assert process.receive() == (b"O", b"null")


def test_state_stays_between_calls_and_timers_go_on_with_the_next(start: Start) -> None:
    process = start(
        "let n = 0\nconst f = async (wait) => { setTimeout(() => { n += 1 }, 1); if (wait) await new Promise((r) => setTimeout(r, 50)); return n }\n"
    )
    process.load()
    assert process.call(False) == (b"O", 0)
    assert process.call(True) == (b"O", 2)


@pytest.mark.parametrize("loop", ["while (1) {}", "const f = () => Promise.resolve().then(f); await f()"])
def test_it_reports_the_running_line_when_asked_and_ends(start: Start, loop: str) -> None:
    process = start(
        f"const inner = async () => {{ console.log('looping'); process.exit = () => {{}}; {loop} }}\nconst f = () => inner()\n"
    )
    process.load()
    process.request()
    deadline = time.monotonic() + PATIENCE_S
    while "looping" not in process.logs():
        assert time.monotonic() < deadline
    os.kill(process.process.pid, signal.SIGINT)
    assert process.status() == -signal.SIGINT
    text = process.logs()
    assert "KEYBOARD_INTERRUPT: Script execution was interrupted by `SIGINT`" in text
    assert "index.js:1" in text
