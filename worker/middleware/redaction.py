"""Redaction: secrets are replaced in everything recorded of an execution but its result.

Logs, the error and the evidence are texts for people and are masked. The result is the function's
own answer and stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from sandlot.errors import SandlotError
from sandlot.models import Outcome
from worker.execution import Execution
from worker.middleware import Middleware

MASK: Final = "***"
SHORTEST: Final = 4
"""Characters. Masking every `1` of a log would hide the log and give the secret away."""


class RedactionMiddleware(Middleware):
    """Middleware that masks a version's secrets in outcomes and in the output of running jobs."""

    def __init__(self, revealed: Mapping[tuple[str, str], Collection[str]]) -> None:
        """
        Args:
            revealed: by function and digest, every value that a version was given since this
                process started; versions without secrets are missing.
        """
        self._revealed = revealed

    def before_done(self, execution: Execution, ended: Outcome | SandlotError) -> Outcome | SandlotError:
        if isinstance(ended, Outcome) and (values := self._revealed.get((execution.function, execution.digest))):
            return masked(ended, values)
        return ended

    def filter_output(self, execution: Execution, output: bytes) -> bytes:
        values = self._revealed.get((execution.function, execution.digest), ())
        # The first line of a secret could be shown before the rest is printed, when it is not yet
        # recognisable.
        if any(len(value.strip().splitlines()) > 1 for value in values):
            return b""
        return masked_text(output, values)


def masked(outcome: Outcome, values: Iterable[str]) -> Outcome:
    """Return the outcome with these values, their lines and their escaped forms replaced."""
    words = _words(values)
    if not words:
        return outcome

    def clean(text: str) -> str:
        for word in words:
            text = text.replace(word, MASK)
        return text

    logs = _replace_words(outcome.logs, words)
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
    """Return the text with these values, their lines and their escaped forms replaced."""
    return _replace_words(text, _words(values)) if text else text


def _replace_words(text: bytes, words: Iterable[str]) -> bytes:
    for word in words:
        text = text.replace(word.encode(), MASK.encode())
    return text


def _words(values: Iterable[str]) -> list[str]:
    """List the texts to replace, longest first, so that none is masked only in part."""
    words: set[str] = set()
    for value in values:
        forms = {value, *value.splitlines(), repr(value)[1:-1], msgspec.json.encode(value).decode()[1:-1]}
        words |= {form for form in (form.strip() for form in forms) if len(form) >= SHORTEST}
    return sorted(words, key=len, reverse=True)
