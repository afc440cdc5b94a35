"""Write requests that change something, and requests that were refused, to the audit log.

An operation names its action in the operation table. Calls of functions are not audited unless a
setting asks for it, since job records cover them; refused calls are.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import Scope

from api.auth import key_of
from api.operations import OPERATION_AT
from sandlot.audit_log import AuditLog, Entry
from sandlot.settings import Settings
from sandlot.transport_security import is_in, read_proxies

_log = logging.getLogger("sandlot.api")

INVOKE: Final = "invoke"
REFUSED: Final = "refused"
REFUSALS: Final = frozenset({401, 403})
REFUSALS_PER_S: Final = 50
"""
Per process, so that a flood of refused requests cannot fill the disk. The next record of another
kind is followed by the number of refusals that were left out.
"""
DIGEST: Final = "sandlot.digest"
"""Key in the ASGI scope: the digest of the version that the request deployed."""
_TARGETS: Final = ("alias", "secret", "job_id")


class RequestAudit:
    """Decides which requests the audit log records."""

    def __init__(self, log: AuditLog | None, settings: Settings) -> None:
        """
        Args:
            log: None to record nothing.
        """
        self._log = log
        self._invocations = settings.audit_invoke
        self.records_calls: Final = settings.audit_invoke and log is not None
        """Calls of functions are recorded even if they are not refused."""
        self._proxies = read_proxies(settings)
        self._second = 0
        self._refusals = 0
        self._left_out = 0

    def record(self, scope: Scope, status: int, request_id: bytes, body: bytes = b"") -> None:
        """Record an answered request, if it has to be.

        Args:
            body: the reply's body, which is a problem document if the request failed.
        """
        if self._log is None:
            return
        refused = status in REFUSALS
        action = self._action(scope, refused)
        if not action or (refused and not self._below_refusal_limit()):
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
        route = scope.get("route")  # none for a hot route, which has no action
        operation = OPERATION_AT.get((scope["method"], route.path)) if route is not None else None
        if operation is not None and operation.audit:
            return operation.audit
        if refused:
            return REFUSED
        return INVOKE if self._invocations and _is_call(scope) else ""

    def _below_refusal_limit(self) -> bool:
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
        """Return the caller's address.

        Behind a declared proxy it is the last one in X-Forwarded-For: the proxy wrote that, while
        the caller could have written those before it.
        """
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
    """Return the code of a problem document; empty for any other body."""
    try:
        code = json.loads(body).get("code", "")
    except (ValueError, AttributeError):
        return ""
    return code if isinstance(code, str) else ""
