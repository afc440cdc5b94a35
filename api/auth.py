"""Who may use which route: one table, and the one place that holds callers to it.

Knows: routes, scopes, what makes a function or a job open to strangers. Does not know: how keys are stored, what routes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Scope as AsgiScope

from sandlot.api_keys import ApiKey, KeyStore, Scope
from sandlot.errors import FunctionNotFound, JobGone, JobNotFound, Unauthenticated, VersionNotFound
from sandlot.functions import Registry, Version
from sandlot.jobs import JobRecord
from sandlot.metrics import is_metrics_token

_BEARER: Final = b"bearer sk_"
_KEY: Final = "sandlot.key"
MEASUREMENTS: Final = frozenset({"/metrics", "/v1/status"})
"""What the token for measurements opens."""


class Access(StrEnum):
    """What a route asks of its caller."""

    OPEN = "open"
    CALL = "call"
    """The scope `invoke` on that function, or nothing at all if its manifest says it is public."""
    JOB = "job"
    """The owner of that job; a job that was submitted without a key is open to whoever knows its id (128 random bits)."""
    JOBS = "jobs"
    """A key with `read` or `invoke`; what is listed is its owner's, and of functions that it covers."""
    READ = "read"
    DEPLOY = "deploy"


ACCESS: Final[Mapping[tuple[str, str], Access]] = MappingProxyType(
    {
        ("GET", "/healthz"): Access.OPEN,
        ("GET", "/readyz"): Access.OPEN,
        ("GET", "/metrics"): Access.READ,
        ("GET", "/v1/status"): Access.READ,
        ("GET", "/openapi.json"): Access.OPEN,
        ("GET", "/docs"): Access.OPEN,
        ("GET", "/v1/functions"): Access.READ,
        ("GET", "/v1/functions/{name}"): Access.READ,
        ("PUT", "/v1/functions/{name}"): Access.DEPLOY,
        ("DELETE", "/v1/functions/{name}"): Access.DEPLOY,
        ("GET", "/v1/functions/{name}/versions"): Access.READ,
        ("GET", "/v1/functions/{name}/versions/{version}/bundle"): Access.READ,
        ("GET", "/v1/functions/{name}/aliases"): Access.READ,
        ("GET", "/v1/functions/{name}/aliases/{alias}"): Access.READ,
        ("PUT", "/v1/functions/{name}/aliases/{alias}"): Access.DEPLOY,
        ("DELETE", "/v1/functions/{name}/aliases/{alias}"): Access.DEPLOY,
        ("GET", "/v1/secrets"): Access.DEPLOY,
        ("GET", "/v1/secrets/{secret}"): Access.DEPLOY,
        ("PUT", "/v1/secrets/{secret}"): Access.DEPLOY,
        ("DELETE", "/v1/secrets/{secret}"): Access.DEPLOY,
        ("POST", "/v1/functions/{name}/invoke"): Access.CALL,
        ("POST", "/v1/functions/{name}/invoke-batch"): Access.CALL,
        ("GET", "/v1/jobs"): Access.JOBS,
        ("GET", "/v1/jobs/{job_id}"): Access.JOB,
        ("GET", "/v1/jobs/{job_id}/result"): Access.JOB,
        ("HEAD", "/v1/jobs/{job_id}/result"): Access.JOB,
        ("GET", "/v1/jobs/{job_id}/logs"): Access.JOB,
        ("GET", "/v1/jobs/{job_id}/events"): Access.JOB,
        ("DELETE", "/v1/jobs/{job_id}"): Access.JOB,
        ("POST", "/v1/jobs/{job_id}/retry"): Access.JOB,
        ("GET", "/v1/dead-letters"): Access.READ,
        ("GET", "/v1/dead-letters/{job_id}"): Access.JOB,
        ("POST", "/v1/dead-letters/{job_id}/redrive"): Access.JOB,
        ("DELETE", "/v1/dead-letters/{job_id}"): Access.JOB,
        ("ANY", "/fn/{name}"): Access.CALL,
        ("ANY", "/fn/{name}/{path:path}"): Access.CALL,
        ("ANY", "/{name}"): Access.CALL,
    }
)


def check_table(routes: Iterable[BaseRoute]) -> None:
    """Whoever adds a route says in `ACCESS` who may use it, or nothing starts.

    Raises:
        RuntimeError: a route is not in the table.
        TypeError: it is of a kind that the table cannot name.
    """
    for route in routes:
        if not isinstance(route, Route):
            raise TypeError(f"{route!r} has no methods and path by which ACCESS (api/auth.py) could say who may use it")
        for method in route.methods or ("ANY",):
            if (method, route.path) not in ACCESS:
                raise RuntimeError(f"{method} {route.path} has no policy: say in ACCESS (api/auth.py) who may use it")


class Authorizer:
    """Every request passes one of the three `admit` methods before anything is done for it."""

    def __init__(
        self, keys: KeyStore, registry: Registry, was_issued: Callable[[str, str], bool], metrics_token: str = ""
    ) -> None:
        """
        Args:
            was_issued: whether we made this job id for this owner.
            metrics_token: reads `MEASUREMENTS` and nothing else; empty for none.
        """
        self._was_issued = was_issued
        self._keys = keys
        self._metrics_token = metrics_token
        self._registry = registry

    async def admit(self, scope: AsgiScope) -> None:
        """Hold the caller to what `ACCESS` says of the matched route, and remember the key for `key_of`.

        A route that is missing in the table raises KeyError, so nothing opens by being forgotten.

        Raises:
            Unauthenticated, Forbidden: not admitted.
        """
        path = scope["route"].path
        access = ACCESS[scope["method"], path]
        if access is Access.OPEN or (path in MEASUREMENTS and self._has_metrics_token(scope)):
            return
        key = await self._authenticate(dict(scope["headers"]))
        scope[_KEY] = key
        if access is Access.JOB:
            return
        if key is None:
            raise _needs_a_key()
        if access is Access.JOBS:
            if not key.allows(Scope.INVOKE):
                key.require(Scope.READ)
            return
        key.require(Scope(access.value), scope["path_params"].get("name"))

    def _has_metrics_token(self, scope: AsgiScope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return is_metrics_token(given.decode("latin-1"), self._metrics_token)

    async def admit_call(self, headers: Mapping[bytes, bytes], name: str, qualifier: str) -> tuple[str, Version]:
        """The owner of a new job (empty without a key) and the version to run.

        Raises:
            Unauthenticated, Forbidden: not admitted; without a key, unknown and private functions look the same.
            FunctionNotFound, VersionNotFound: to whom may know.
        """
        key = await self._authenticate(headers)
        try:
            # A caller's retry is the same job, and should be the same version where an alias shares calls between several.
            version = await self._registry.resolve(
                name, qualifier, headers.get(b"idempotency-key", b"").decode("latin-1")
            )
        except (FunctionNotFound, VersionNotFound):
            if key is None:
                raise _needs_a_key() from None
            key.require(Scope.INVOKE, name)
            raise
        if key is None:
            if version.manifest.visibility != "public":
                raise _needs_a_key()
            return "", version
        if version.manifest.visibility != "public":
            key.require(Scope.INVOKE, name)
        return key.owner, version

    def admit_job(self, scope: AsgiScope, job_id: str, record: JobRecord | None, need: Scope) -> JobRecord:
        """The record, if it is there and the caller's; a foreign job and an unknown one are the same.

        Raises:
            JobNotFound: either of the two.
            JobGone: it was the caller's, and its retention is over.
            Forbidden: it is the caller's, but the key lacks the scope `need` (or `invoke`, which includes reading one's own jobs).
        """
        key = key_of(scope)
        if record is not None and record.owner == "":
            return record
        if record is None or key is None or not (key.owner == record.owner or Scope.ADMIN in key.scopes):
            if record is None and (
                self._was_issued("", job_id) or (key is not None and self._was_issued(key.owner, job_id))
            ):
                raise JobGone(f"job {job_id} has ended, and its retention is over")
            raise JobNotFound(f"no job {job_id[:80]!r}: it never was, or it is not yours")
        if not key.allows(Scope.INVOKE, record.function):
            key.require(need, record.function)
        return record

    def sees(self, key: ApiKey | None, record: JobRecord) -> bool:
        """Whether a list of jobs shows this one to the key it was asked with."""
        if key is None or not record.function.startswith(key.prefix):
            return False
        return record.owner in ("", key.owner) or Scope.ADMIN in key.scopes

    async def _authenticate(self, headers: Mapping[bytes, bytes]) -> ApiKey | None:
        """The caller's key; `None` if there is no credential of ours (another scheme may be meant for the function)."""
        credential = headers.get(b"authorization")
        if credential is None or not is_ours(credential):
            return None
        return await self._keys.authenticate(credential[len("bearer ") :].decode("latin-1").strip())


async def admitted(request: Request) -> None:
    """The dependency of every FastAPI route."""
    door: Authorizer = request.app.state.door
    await door.admit(request.scope)


def key_of(scope: AsgiScope) -> ApiKey | None:
    """The key with which this request was admitted."""
    key: ApiKey | None = scope.get(_KEY)
    return key


def is_ours(credential: bytes) -> bool:
    """Whether this `Authorization` is a Sandlot key, and therefore never shown to a function."""
    return credential[: len(_BEARER)].lower() == _BEARER


def _needs_a_key() -> Unauthenticated:
    return Unauthenticated(
        "this needs an API key: send Authorization: Bearer sk_… (sandlot up writes one to .sandlot/key)"
    )
