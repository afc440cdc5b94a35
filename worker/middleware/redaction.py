"""Keep secrets out of what is recorded of an execution: its logs, its error, its evidence.

Knows: an outcome's texts, and which values were given to a version. Does not know: where secrets come from, sandboxes.
A function's *result* is its own answer and is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from sandlot.errors import SandlotError
from sandlot.models import Outcome
from worker.execution import Done, Execution, Executor

MASK: Final = "***"
SHORTEST: Final = 4
"""Masking every `1` of a log would hide the log and tell the secret."""


class MaskingPool(Executor):
    """An executor whose outcomes have no secrets in their words."""

    def __init__(self, pool: Executor, values_of: Callable[[str, str], Collection[str]]) -> None:
        """`values_of`: every value that a version, by function and digest, was given since this process started."""
        self._pool = pool
        self._values_of = values_of
        self._running: dict[str, Execution] = {}
        self.slots = pool.slots
        self.runtimes = pool.runtimes

    def start(self, execution: Execution, done: Done) -> None:
        def ended(execution: Execution, how: Outcome | SandlotError) -> None:
            self._running.pop(execution.job_id, None)
            if isinstance(how, Outcome) and (values := self._values_of(execution.function, execution.digest)):
                how = masked(how, values)
            done(execution, how)

        self._running[execution.job_id] = execution
        self._pool.start(execution, ended)

    def cancel(self, job_id: str) -> bool:
        return self._pool.cancel(job_id)

    def abandon(self, job_id: str) -> bool:
        self._running.pop(job_id, None)
        return self._pool.abandon(job_id)

    def printed(self, job_id: str) -> bytes:
        execution = self._running.get(job_id)
        if execution is None:
            return b""
        values = list(self._values_of(execution.function, execution.digest))
        # Of a secret of several lines the first may be said before the others are printed, and before anybody can tell what they are.
        if any(len(value.strip().splitlines()) > 1 for value in values):
            return b""
        return masked_text(self._pool.printed(job_id), values)


def masked(outcome: Outcome, values: Iterable[str]) -> Outcome:
    """The outcome with these values, their lines and their escaped forms replaced."""
    words = _words(values)
    if not words:
        return outcome

    def clean(text: str) -> str:
        for word in words:
            text = text.replace(word, MASK)
        return text

    logs = _masked(outcome.logs, words)
    error, evidence = outcome.error, outcome.evidence
    if error is not None:
        error = msgspec.structs.replace(
            error,
            error_type=clean(error.error_type),
            error_message=clean(error.error_message),
            stack_trace=[clean(line) for line in error.stack_trace],
        )
    if evidence is not None:
        evidence = msgspec.structs.replace(
            evidence,
            stack=[clean(line) for line in evidence.stack],
            detail=None if evidence.detail is None else clean(evidence.detail),
        )
    return msgspec.structs.replace(outcome, logs=logs, error=error, evidence=evidence)


def masked_text(text: bytes, values: Iterable[str]) -> bytes:
    return _masked(text, _words(values)) if text else text


def _masked(text: bytes, words: Iterable[str]) -> bytes:
    for word in words:
        text = text.replace(word.encode(), MASK.encode())
    return text


def _words(values: Iterable[str]) -> list[str]:
    """Longest first, so that none is hidden only in part by another."""
    words: set[str] = set()
    for value in values:
        forms = {value, *value.splitlines(), repr(value)[1:-1], msgspec.json.encode(value).decode()[1:-1]}
        words |= {form for form in (form.strip() for form in forms) if len(form) >= SHORTEST}
    return sorted(words, key=len, reverse=True)
