"""Authorization: hold each caller to the access that the operation table demands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from starlette.types import Scope as AsgiScope

from api.operations import OPERATION_AT, Access, Operation
from sandlot.api_keys import ApiKey, KeyStore, Scope
from sandlot.errors import FunctionNotFound, JobGone, JobNotFound, Unauthenticated, VersionNotFound
from sandlot.functions import Registry, Version
from sandlot.jobs import JobRecord
from sandlot.metrics import is_metrics_token

_BEARER: Final = b"bearer sk_"
_KEY: Final = "sandlot.key"


class Authorizer:
    """Decides whether a caller may do what a request asks.

    Each request passes `authorize` or, if it calls a function, `authorize_call` before anything
    else is done for it.
    """

    def __init__(
        self, keys: KeyStore, registry: Registry, was_issued: Callable[[str, str], bool], metrics_token: str = ""
    ) -> None:
        """
        Args:
            was_issued: tells whether this installation made a job id for an owner.
            metrics_token: accepted where an operation says so, and nowhere else; empty if unset.
        """
        self._was_issued = was_issued
        self._keys = keys
        self._metrics_token = metrics_token
        self._registry = registry

    async def authorize(self, scope: AsgiScope) -> None:
        """Check the caller against the operation of the matched route; keep the key for `key_of`.

        A route without an operation raises KeyError, so a forgotten entry opens nothing.

        Raises:
            Unauthenticated: the key is missing or not valid.
            Forbidden: the key does not cover the operation or the function.
        """
        operation = operation_of(scope)
        access = operation.access
        if access is Access.OPEN or (operation.opens_to_metrics_token and self._has_metrics_token(scope)):
            return
        key = await self._authenticate(dict(scope["headers"]))
        scope[_KEY] = key
        if access in (Access.JOB, Access.CHANGE_JOB):
            return  # authorize_job decides, which knows the job
        if key is None:
            raise _key_needed()
        if access is Access.JOBS:
            if not key.allows(Scope.INVOKE):
                key.require(Scope.READ)
            return
        key.require(Scope(access.value), scope["path_params"].get("name"))

    def _has_metrics_token(self, scope: AsgiScope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return is_metrics_token(given.decode("latin-1"), self._metrics_token)

    async def authorize_call(self, headers: Mapping[bytes, bytes], name: str, qualifier: str) -> tuple[str, Version]:
        """Return the owner of a new job (empty without a key) and the version to run.

        Raises:
            Unauthenticated, Forbidden: the caller may not call the function. Without a key, an
                unknown and a private function look the same.
            FunctionNotFound, VersionNotFound: raised only to callers that may know.
        """
        key = await self._authenticate(headers)
        try:
            # A caller's retry is the same job, so it should be the same version where an alias
            # splits calls between several.
            version = await self._registry.resolve(
                name, qualifier, headers.get(b"idempotency-key", b"").decode("latin-1")
            )
        except (FunctionNotFound, VersionNotFound):
            if key is None:
                raise _key_needed() from None
            key.require(Scope.INVOKE, name)
            raise
        if key is None:
            if version.manifest.visibility != "public":
                raise _key_needed()
            return "", version
        if version.manifest.visibility != "public":
            key.require(Scope.INVOKE, name)
        return key.owner, version

    def authorize_job(self, scope: AsgiScope, job_id: str, record: JobRecord | None) -> JobRecord:
        """Return the record if it exists and belongs to the caller.

        Raises:
            JobNotFound: the job does not exist or belongs to another owner; both look the same.
            JobGone: the job was the caller's, and its retention is over.
            Forbidden: the job is the caller's, but the key lacks `invoke`, or `read` where reading
                the job is all that the operation does.
        """
        key = key_of(scope)
        if record is not None and record.owner == "":
            return record
        if record is None or key is None or not (key.owner == record.owner or Scope.ADMIN in key.scopes):
            if record is None and (
                self._was_issued("", job_id) or (key is not None and self._was_issued(key.owner, job_id))
            ):
                raise JobGone(f"job {job_id} has ended, and its retention is over")
            raise JobNotFound(f"no job {job_id[:80]!r}: it never existed, or it belongs to another owner")
        if not key.allows(Scope.INVOKE, record.function):
            changes = operation_of(scope).access is Access.CHANGE_JOB
            key.require(Scope.INVOKE if changes else Scope.READ, record.function)
        return record

    def may_list(self, key: ApiKey | None, record: JobRecord) -> bool:
        """Return whether a list of jobs that was requested with this key shows the job."""
        if key is None or not record.function.startswith(key.prefix):
            return False
        return record.owner in ("", key.owner) or Scope.ADMIN in key.scopes

    async def _authenticate(self, headers: Mapping[bytes, bytes]) -> ApiKey | None:
        """Return the caller's key; None without a Sandlot key.

        A credential of another scheme may be meant for the function.
        """
        credential = headers.get(b"authorization")
        if credential is None or not is_sandlot_key(credential):
            return None
        return await self._keys.authenticate(credential[len("bearer ") :].decode("latin-1").strip())


def operation_of(scope: AsgiScope) -> Operation:
    """Return the operation of the route that this request matched.

    Raises:
        KeyError: the route has no operation.
    """
    return OPERATION_AT[scope["method"], scope["route"].path]


def key_of(scope: AsgiScope) -> ApiKey | None:
    """Return the key with which this request was authorized."""
    key: ApiKey | None = scope.get(_KEY)
    return key


def is_sandlot_key(credential: bytes) -> bool:
    """Return whether this `Authorization` is a Sandlot key, which no function may see."""
    return credential[: len(_BEARER)].lower() == _BEARER


def _key_needed() -> Unauthenticated:
    return Unauthenticated(
        "this needs an API key: send Authorization: Bearer sk_… (sandlot up writes one to .sandlot/key)"
    )
