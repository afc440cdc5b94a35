"""How a call that did not end well is told to people, in one sentence.

Knows: a sentence for every kind of end. Does not know: where it is shown.
"""

from __future__ import annotations

from sandlot.models import Evidence, FunctionError, OutcomeKind


def detail_of(kind: OutcomeKind, error: FunctionError | None, evidence: Evidence | None) -> str:
    """What the function raised, else what ended it, with the limit."""
    if error is not None:
        return f"{error.error_type}: {error.error_message}"
    limits = evidence.limit if evidence is not None else {}
    limit = ", ".join(f"{name}={value:g}" for name, value in limits.items())
    return _DETAILS.get(kind, f"the function ended as {kind}") + (f" (limit: {limit})" if limit else "")


_DETAILS = {
    OutcomeKind.TIMEOUT: "the function ran longer than its time limit and was killed",
    OutcomeKind.MEMORY: "the function used more memory than its limit and was killed",
    OutcomeKind.CPU: "the function used more CPU than its limit and was killed",
    OutcomeKind.PROCESSES: "the function started more processes than its limit and was killed",
    OutcomeKind.OUTPUT: "the function wrote more than its limit and was killed",
    OutcomeKind.EXIT: "the function ended its process instead of returning",
    OutcomeKind.SIGNAL: "the function's process was killed by a signal",
    OutcomeKind.BAD_RESULT: "the function returned something that is not JSON",
    OutcomeKind.CANCELLED: "the job was cancelled",
    OutcomeKind.EXPIRED: "the job was not started in the time it was given, and was not run",
    OutcomeKind.WORKER_LOST: "every worker that ran the function was lost before it ended",
}
