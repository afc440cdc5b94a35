"""Everything that can go wrong in the platform, grouped by who has to act.

What a *function* does is an `Outcome`, never one of these. `code` is fixed and for machines; the message is for people and says
what happened, with which value, and what to do. HTTP statuses are not known here: `api/http/problems.py` has the one table.
"""

from __future__ import annotations


class SandlotError(Exception):
    """The root; never raised itself."""

    code = "sandlot_error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        """Extra members of the problem document: JSON values only, never a secret."""


def by_code() -> dict[str, type[SandlotError]]:
    """Every class by its code, which is all that a reply carries of it."""
    found: dict[str, type[SandlotError]] = {}
    waiting: list[type[SandlotError]] = [SandlotError]
    while waiting:
        kind = waiting.pop()
        if "code" in vars(kind):  # a subclass that keeps its parent's code is the parent to whoever reads a reply
            found[kind.code] = kind
        waiting += kind.__subclasses__()
    return found


# The caller can fix it: the same request fails again.


class CallerError(SandlotError):
    """The request cannot be honoured as it is."""

    code = "bad_request"


class InvalidJson(CallerError):
    """The body is not JSON text that Sandlot accepts (RFC 8259; no NaN, no lone surrogates, at most 200 levels)."""

    code = "invalid_json"


class PayloadTooLarge(CallerError):
    """The body is larger than the limit, counted as it arrived."""

    code = "payload_too_large"


class UnsupportedMediaType(CallerError):
    """The body is of a type that this route does not read."""

    code = "unsupported_media_type"


class InvalidPreference(CallerError):
    """`Prefer: handling=strict` asked for what cannot be honoured (RFC 7240)."""

    code = "invalid_preference"


class CallbackRefused(CallerError):
    """The URL of a callback is not one that this server calls; the message says why."""

    code = "callback_refused"


class InvalidManifest(CallerError):
    """A manifest, a source file or an archive is not acceptable; the message names the line or the entry."""

    code = "invalid_manifest"


class IsolationMissing(CallerError):
    """The function's manifest requires walls that the worker which took the job does not have; the message names them."""

    code = "isolation_missing"


class FunctionNotFound(CallerError):
    """No function of that name is deployed."""

    code = "function_not_found"


class VersionNotFound(CallerError):
    """The function has no such version or alias."""

    code = "version_not_found"


class VersionFailed(CallerError):
    """The version's dependencies cannot be had; the message has the resolver's own words."""

    code = "version_failed"


class SecretNotFound(CallerError):
    """There is no secret of that name, or not for that function."""

    code = "secret_not_found"


class JobNotFound(CallerError):
    """No such job, or it is not the caller's: one answer for both."""

    code = "job_not_found"


class JobGone(CallerError):
    """The job ended and its retention is over."""

    code = "job_gone"


class JobFinal(CallerError):
    """The job has ended and can no longer be changed."""

    code = "job_final"


class JobUnfinished(CallerError):
    """The job has not ended, and what was asked is for jobs that have."""

    code = "job_unfinished"


class NoResult(CallerError):
    """The job ended without a result."""

    code = "no_result"


class IdempotencyConflict(CallerError):
    """The idempotency key was used before with another payload."""

    code = "idempotency_conflict"


class VersionConflict(CallerError):
    """Somebody else deployed in between (`If-Match` no longer holds)."""

    code = "version_conflict"


class MethodNotAllowed(CallerError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class RouteNotFound(CallerError):
    """Nothing is at that path."""

    code = "not_found"


class Unauthenticated(CallerError):
    """No key, or one that is not valid."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """The key is valid, its scopes do not cover this."""

    code = "forbidden"


# Try again later: nothing is wrong with the request.


class TryAgain(SandlotError):
    """Refused for now; nothing was submitted unless the message says so. `retry_after_s` is a measured guess."""

    code = "try_again"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **fields: object) -> None:
        super().__init__(message, **fields)
        self.retry_after_s = retry_after_s


class QueueFull(TryAgain):
    """The function's queue, or all queues together, are at their limit."""

    code = "queue_full"


class QueueUnavailable(TryAgain):
    """Redis did not answer in time, or refused. The message says whether the submission is known to have failed."""

    code = "queue_unavailable"


class NoWorker(TryAgain):
    """No live worker can run this function's runtime and tags."""

    code = "no_worker"


class FunctionCrashLoop(TryAgain):
    """The function has crashed too often of late and is given a rest, so that it does not use up the sandboxes of others."""

    code = "function_crash_loop"


class VersionPending(TryAgain):
    """The version's dependencies are being resolved or installed."""

    code = "version_pending"


class ShuttingDown(TryAgain):
    """This process is stopping; another one, or the next, will answer."""

    code = "shutting_down"


class WaitTimeout(TryAgain):
    """The wait is over, the function is not: the job goes on, and its id is in the fields."""

    code = "wait_timeout"


# The operator has to act.


class OperatorError(SandlotError):
    """The installation is wrong; the process says so in one line and exits non-zero."""

    code = "operator_error"


class InvalidSettings(OperatorError):
    """An environment variable or option has a value that cannot be used."""

    code = "invalid_settings"


class RuntimeUnavailable(OperatorError):
    """A runtime is not installed on this machine (`node`, for one)."""

    code = "runtime_unavailable"


class SandboxUnavailable(OperatorError):
    """The walls that were asked for cannot be had here; the message says which is missing and how to provide it."""

    code = "sandbox_unavailable"


class PortTaken(OperatorError):
    """Something else listens there."""

    code = "port_taken"


class ApiUnreachable(OperatorError):
    """The client found no Sandlot API at its URL, or it did not answer in time."""

    code = "api_unreachable"


class SchemaMismatch(OperatorError):
    """The data in Redis was written by a Sandlot whose layout this one does not understand; it must not touch it."""

    code = "schema_mismatch"


class UnsafeRecord(OperatorError):
    """A record in Redis has no valid signature: it was written without our key and will not be obeyed."""

    code = "unsafe_record"
