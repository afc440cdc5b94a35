"""Which requests are audited, and what is recorded of them.

Knows: routes, keys, statuses, where a caller is behind a proxy. Does not know: how a record is kept (`sandlot.audit_log`).
Calls of functions are not audited unless a setting asks for it: that is what job records are for. A call that is refused is.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import Scope

from api.auth import key_of
from sandlot.audit_log import AuditLog, Entry
from sandlot.settings import Settings
from sandlot.transport_security import is_in, read_proxies

_log = logging.getLogger("sandlot.api")

ACTIONS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("PUT", "/v1/functions/{name}"): "deploy",
        ("DELETE", "/v1/functions/{name}"): "delete",
        ("PUT", "/v1/functions/{name}/aliases/{alias}"): "alias",
        ("DELETE", "/v1/functions/{name}/aliases/{alias}"): "alias-delete",
        ("PUT", "/v1/secrets/{secret}"): "secret",
        ("DELETE", "/v1/secrets/{secret}"): "secret-delete",
        ("DELETE", "/v1/jobs/{job_id}"): "cancel",
        ("POST", "/v1/jobs/{job_id}/retry"): "retry",
        ("POST", "/v1/dead-letters/{job_id}/redrive"): "redrive",
        ("DELETE", "/v1/dead-letters/{job_id}"): "purge",
    }
)
"""What changes something, by its route. A route that changes something and is not here fails a test."""
INVOKE: Final = "invoke"
REFUSED: Final = "refused"
REFUSALS: Final = frozenset({401, 403})
REFUSALS_PER_S: Final = 50
"""Of one process: whoever knocks faster must not fill the disk. How many were left out is recorded with the next."""
DIGEST: Final = "sandlot.digest"
"""In the scope: the digest of the version that the request made."""
_TARGETS: Final = ("alias", "secret", "job_id")


class Audit:
    """One per process; `log` is None if nothing is to be audited."""

    def __init__(self, log: AuditLog | None, settings: Settings) -> None:
        self._log = log
        self._invocations = settings.audit_invoke
        self._proxies = read_proxies(settings)
        self._second = 0
        self._refusals = 0
        self._left_out = 0

    @property
    def calls(self) -> bool:
        """Whether calls of functions are recorded that were not refused."""
        return self._invocations and self._log is not None

    def saw(self, scope: Scope, status: int, request_id: bytes, body: bytes = b"") -> None:
        """A request has been answered; `body` is the problem document, if it was refused."""
        if self._log is None:
            return
        refused = status in REFUSALS
        action = self._action(scope, refused)
        if not action or (refused and not self._may_record()):
            return
        entries = [self._entry(scope, action, status, request_id, body)]
        if self._left_out and not refused:
            entries.append(Entry(action=REFUSED, outcome="left_out", target=str(self._left_out)))
            self._left_out = 0
        try:
            self._log.write(*entries)
        except OSError as error:
            _log.error("audit record lost", extra={"reason": str(error), "action": action})

    def _action(self, scope: Scope, refused: bool) -> str:
        route = scope.get("route")
        action = ACTIONS.get((scope["method"], route.path), "") if route is not None else ""
        if action:
            return action
        if refused:
            return REFUSED
        return INVOKE if self._invocations and _is_call(scope) else ""

    def _may_record(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        if self._refusals > REFUSALS_PER_S:
            self._left_out += 1
            return False
        return True

    def _entry(self, scope: Scope, action: str, status: int, request_id: bytes, body: bytes) -> Entry:
        key = key_of(scope)
        path: Mapping[str, Any] = scope.get("path_params") or {}
        target = next((str(path[name]) for name in _TARGETS if name in path), "")
        return Entry(
            action=action,
            outcome="ok" if status < 400 else _code(body) or str(status),
            who=key.owner if key else "",
            key=key.id if key else "",
            function=str(path.get("name", ""))[:200],
            digest=scope.get(DIGEST, ""),
            target=target[:200] if action != REFUSED else f"{scope['method']} {scope['path']}"[:200],
            source=self._source(scope),
            request=request_id.decode("latin-1"),
        )

    def _source(self, scope: Scope) -> str:
        """Who connected; behind a declared proxy, the one that it says it speaks for (the last: what is before that, anybody can write)."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        if not self._proxies or not is_in(address, self._proxies):
            return address
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                return unquote(value.decode("latin-1")).rpartition(",")[2].strip()[:100] or address
        return address


def _is_call(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith("/fn/") or path.endswith(("/invoke", "/invoke-batch")) or not path.startswith("/v1/")


def _code(body: bytes) -> str:
    try:
        code = json.loads(body).get("code", "")
    except (ValueError, AttributeError):
        return ""
    return code if isinstance(code, str) else ""
