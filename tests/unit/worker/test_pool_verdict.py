"""Which outcome each end is. No processes: ends and frames are values here."""

from __future__ import annotations

import json
import signal

import pytest

from sandlot.models import OutcomeKind as K
from worker.pool import verdict
from worker.sandbox.spec import SandboxExit

MIB = 1024 * 1024


def end(
    exit_code: int | None = None, signal: int | None = None, *, oom_killed: bool = False, cpu_ms: float = 5.0
) -> SandboxExit:
    return SandboxExit(exit_code, signal, peak_memory_bytes=300 * MIB, cpu_ms=cpu_ms, oom_killed=oom_killed)


@pytest.mark.parametrize("text", [b"1", b'"a"', b'{"a": [null, true]}', '"ä"'.encode()])
def test_a_json_result_is_ok_and_untouched(text: bytes) -> None:
    decided = verdict.of_answer(b"O", text)
    assert (decided.kind, decided.result, decided.spoiled) == (K.OK, text, False)


@pytest.mark.parametrize("text", [b"", b"{]", b"NaN", b"1 2", b'"\\ud800"', b"\xff", b"[" * 500 + b"]" * 500, b"1e999"])
def test_a_result_that_is_not_json_is_bad_and_spoils_the_process(text: bytes) -> None:
    decided = verdict.of_answer(b"O", text)
    assert (decided.kind, decided.result, decided.spoiled) == (K.BAD_RESULT, b"", True)
    assert decided.error is not None


@pytest.mark.parametrize(
    ("kind", "outcome", "spoiled"),
    [
        ("error", K.ERROR, False),
        ("bad_result", K.BAD_RESULT, False),
        ("memory", K.MEMORY, True),
        ("processes", K.PROCESSES, True),
        ("timeout", K.ERROR, False),
        ("ok", K.ERROR, False),
        ("cancelled", K.ERROR, False),
    ],
)
def test_a_function_can_claim_only_what_it_can_know(kind: str, outcome: K, spoiled: bool) -> None:
    frame = {"kind": kind, "errorType": "T", "errorMessage": "m", "stackTrace": ["f"], "surprise": 1}
    decided = verdict.of_answer(b"E", json.dumps(frame).encode())
    assert (decided.kind, decided.spoiled) == (outcome, spoiled)
    assert decided.error is not None
    assert (decided.error.error_type, decided.error.error_message, decided.error.stack_trace) == ("T", "m", ["f"])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"errorType": 5}', b'{"stackTrace": [1]}', b"\xff", b"[" * 100_000]
)
def test_a_garbled_error_is_a_bad_result(body: bytes) -> None:
    assert verdict.of_answer(b"E", body).kind is K.BAD_RESULT


def test_ready_means_nothing_to_decide() -> None:
    assert verdict.of_ready(b'{"ok":true,"import_ms":1.5}') is None


@pytest.mark.parametrize(
    "body", [b'{"ok":false,"errorType":"SyntaxError","errorMessage":"m","kind":"error"}', b"", b"[]", b'{"ok":1}']
)
def test_anything_else_is_an_import_error(body: bytes) -> None:
    decided = verdict.of_ready(body)
    assert decided is not None
    assert decided.kind is K.IMPORT_ERROR


@pytest.mark.parametrize(
    ("ended", "logs", "outcome"),
    [
        (end(exit_code=0), b"", K.EXIT),
        (end(exit_code=3), b"", K.EXIT),
        (end(signal=signal.SIGSEGV), b"", K.SIGNAL),
        (end(signal=signal.SIGKILL), b"", K.SIGNAL),
        (end(signal=signal.SIGKILL, oom_killed=True), b"", K.MEMORY),
        (end(signal=signal.SIGXCPU, cpu_ms=2000.4), b"", K.CPU),
        (end(signal=signal.SIGABRT), b"", K.SIGNAL),
        (end(signal=signal.SIGABRT), b"FATAL ERROR: ... JavaScript heap out of memory\n", K.MEMORY),
        (end(signal=signal.SIGTRAP), b"JavaScript heap out of memory", K.MEMORY),
        (end(exit_code=1), b"JavaScript heap out of memory", K.EXIT),
    ],
)
def test_an_exit_without_an_answer_gets_the_kernels_verdict(ended: SandboxExit, logs: bytes, outcome: K) -> None:
    assert verdict.of_end(ended, 256, logs).kind is outcome


def test_evidence_names_limit_and_measure_in_one_unit() -> None:
    decided = verdict.of_end(end(signal=signal.SIGKILL, oom_killed=True), 256, b"")
    assert decided.evidence is not None
    assert (decided.evidence.limit, decided.evidence.measured) == ({"memory_mib": 256}, {"memory_mib": 300})
    decided = verdict.of_timeout(5.0, 5.0042, end(signal=9), ["f"], importing=False)
    assert decided.evidence is not None
    assert (decided.evidence.limit, decided.evidence.measured) == ({"wall_s": 5.0}, {"wall_s": 5.004})
    assert decided.evidence.stack == ["f"]


def test_every_outcome_but_ok_has_a_sentence_for_people() -> None:
    decided = [
        verdict.of_cancel(None),
        verdict.of_flood(1, None),
        verdict.of_garbled("detail", None),
        verdict.of_timeout(1, 1, None, [], importing=True),
        *(verdict.of_end(end(signal=number), 256, b"") for number in (6, 9, 24, 31, 62)),
    ]
    assert all(one.error is not None and one.error.error_message for one in decided)
