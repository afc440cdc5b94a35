"""Exceptions for everything that can go wrong in the platform, grouped by the party that must act.

A function's own behaviour is an `Outcome`, never one of these. `code` is fixed and meant for
programs. The message is meant for people and says what happened, with which value, and what to do.
HTTP statuses and titles are not known here: `api/http/problems.py` has the one table.
"""

from __future__ import annotations


class SandlotError(Exception):
    """Root of the tree; only its subclasses are raised."""

    code = "sandlot_error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        """Extra members of the problem document (RFC 9457): JSON values only, never a secret."""


def by_code() -> dict[str, type[SandlotError]]:
    """Return every error class by its code, which is all that a reply carries of a class."""
    found: dict[str, type[SandlotError]] = {}
    waiting: list[type[SandlotError]] = [SandlotError]
    while waiting:
        kind = waiting.pop()
        if "code" in vars(kind):  # to a reply, a subclass without a code is its parent
            found[kind.code] = kind
        waiting += kind.__subclasses__()
    return found


# The caller must act: repeating the same request fails again.


class CallerError(SandlotError):
    """The request cannot be carried out as written."""

    code = "bad_request"


class InvalidJson(CallerError):
    """The body is not JSON text that Sandlot accepts.

    That is RFC 8259 without NaN and lone surrogates, and with at most 200 levels of nesting.
    """

    code = "invalid_json"


class PayloadTooLarge(CallerError):
    """The body exceeds the size limit, counted in bytes as they arrived."""

    code = "payload_too_large"


class UnsupportedMediaType(CallerError):
    """The route does not read bodies of this content type."""

    code = "unsupported_media_type"


class InvalidPreference(CallerError):
    """`Prefer: handling=strict` came with a preference that cannot be honoured (RFC 7240)."""

    code = "invalid_preference"


class CallbackRefused(CallerError):
    """This server does not call the given callback URL; the message says why."""

    code = "callback_refused"


class InvalidManifest(CallerError):
    """A manifest, source file or archive is not acceptable; the message names the line or entry."""

    code = "invalid_manifest"


class IsolationMissing(CallerError):
    """The worker lacks isolation features that the manifest requires; the message names them."""

    code = "isolation_missing"


class FunctionNotFound(CallerError):
    """No function of that name is deployed."""

    code = "function_not_found"


class VersionNotFound(CallerError):
    """The function has no such version or alias."""

    code = "version_not_found"


class VersionFailed(CallerError):
    """The version's dependencies cannot be installed; the message quotes the resolver."""

    code = "version_failed"


class SecretNotFound(CallerError):
    """No secret of that name exists, or its prefix excludes that function."""

    code = "secret_not_found"


class JobNotFound(CallerError):
    """The job does not exist or belongs to another owner; the reply does not tell which."""

    code = "job_not_found"


class JobGone(CallerError):
    """The job ended and its retention period is over."""

    code = "job_gone"


class JobFinal(CallerError):
    """The job has ended and can no longer be changed."""

    code = "job_final"


class JobUnfinished(CallerError):
    """The operation needs a job that has ended, and this one has not."""

    code = "job_unfinished"


class NoResult(CallerError):
    """The job ended without a result."""

    code = "no_result"


class IdempotencyConflict(CallerError):
    """The idempotency key was already used with a different payload."""

    code = "idempotency_conflict"


class VersionConflict(CallerError):
    """The function was changed in between, so `If-Match` no longer holds."""

    code = "version_conflict"


class MethodNotAllowed(CallerError):
    """The path exists but does not support this method."""

    code = "method_not_allowed"


class RouteNotFound(CallerError):
    """No route matches the path."""

    code = "not_found"


class Unauthenticated(CallerError):
    """The request carries no API key, or one that is not valid."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """The API key is valid, but its scopes or prefix do not cover the request."""

    code = "forbidden"


# The caller may repeat the request later: nothing is wrong with it.


class TryAgain(SandlotError):
    """Refused for now; nothing was submitted unless the message says so.

    `retry_after_s` is an estimate, measured where that is possible.
    """

    code = "try_again"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **fields: object) -> None:
        super().__init__(message, **fields)
        self.retry_after_s = retry_after_s


class QueueFull(TryAgain):
    """The function's queue, or all queues together, have reached their limit."""

    code = "queue_full"


class QueueUnavailable(TryAgain):
    """Redis did not answer in time, or refused.

    The message says whether the submit is known to have failed.
    """

    code = "queue_unavailable"


class NoWorker(TryAgain):
    """No live worker can run this function's runtime and tags."""

    code = "no_worker"


class FunctionCrashLoop(TryAgain):
    """The function crashed too often and is paused.

    The pause keeps it from using up sandboxes that other functions need.
    """

    code = "function_crash_loop"


class VersionPending(TryAgain):
    """The version's dependencies are still being resolved or installed."""

    code = "version_pending"


class ShuttingDown(TryAgain):
    """This process is stopping; another process, or its successor, will answer."""

    code = "shutting_down"


class WaitTimeout(TryAgain):
    """The caller's wait ended before the function did; the job goes on, and `fields` has its id."""

    code = "wait_timeout"


# The operator must act.


class OperatorError(SandlotError):
    """The installation is wrong.

    The process reports it in one line and exits with a non-zero status.
    """

    code = "operator_error"


class InvalidSettings(OperatorError):
    """An environment variable or option has a value that cannot be used."""

    code = "invalid_settings"


class RuntimeUnavailable(OperatorError):
    """A runtime, such as `node`, is not installed on this machine."""

    code = "runtime_unavailable"


class SandboxUnavailable(OperatorError):
    """This machine cannot provide the requested isolation.

    The message says what is missing and how to provide it.
    """

    code = "sandbox_unavailable"


class PortTaken(OperatorError):
    """Another process is listening on the port."""

    code = "port_taken"


class ApiUnreachable(OperatorError):
    """The client found no Sandlot API at its URL, or the API did not answer in time."""

    code = "api_unreachable"


class SchemaMismatch(OperatorError):
    """The data in Redis has a layout that this release does not understand and must not touch."""

    code = "schema_mismatch"


class UnsafeRecord(OperatorError):
    """A record in Redis is not obeyed, because its signature or its content is wrong.

    It is not signed with our key, belongs to something else, or cannot be read.
    """

    code = "unsafe_record"
