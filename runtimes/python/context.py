"""The handler's `context`: Lambda's attributes, and the job.

The fields come from `I` and from the context of an `R` frame (`runtimes/PROTOCOL.md`). The
remaining time is informative; the worker enforces the limit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any


class FunctionVersion:
    """The attributes that all invocations of this process share."""

    __slots__ = ("arn", "function", "memory_limit_mib", "version")

    def __init__(self, init: Mapping[str, Any]) -> None:
        self.function = str(init.get("function", ""))
        self.version = str(init.get("version", ""))
        self.memory_limit_mib = int(init.get("memory_limit_mib", 0))
        # Code written for Lambda splits an ARN at its colons, so this has as many as Lambda's.
        self.arn = f"arn:aws:lambda:local:000000000000:function:{self.function}:{self.version}"


class Context:
    """The context of one invocation, with Lambda's names; read-only by convention, as there."""

    __slots__ = ("_began_s", "_parsed", "_text", "_version")

    identity = None
    """Always None, as on Lambda without a Cognito identity."""

    def __init__(self, version: FunctionVersion, text: bytes) -> None:
        self._version = version
        self._text = text
        self._parsed: dict[str, Any] | None = None
        self._began_s = time.monotonic()

    @property
    def _fields(self) -> dict[str, Any]:
        """Parse the fields on first access: most handlers never read them."""
        if self._parsed is None:
            self._parsed = json.loads(self._text)
        return self._parsed

    @property
    def job_id(self) -> str:
        return str(self._fields["job_id"])

    @property
    def attempt(self) -> int:
        """1 for the first execution of a job; a later one may repeat work that was already done."""
        return int(self._fields["attempt"])

    @property
    def traceparent(self) -> str:
        """The caller's W3C trace context, or an empty string."""
        return str(self._fields.get("traceparent", ""))

    @property
    def aws_request_id(self) -> str:
        return self.job_id

    @property
    def function_name(self) -> str:
        return self._version.function

    @property
    def function_version(self) -> str:
        return self._version.version

    @property
    def invoked_function_arn(self) -> str:
        return self._version.arn

    @property
    def memory_limit_in_mb(self) -> int:
        return self._version.memory_limit_mib

    @property
    def log_group_name(self) -> str:
        return f"/aws/lambda/{self._version.function}"

    @property
    def log_stream_name(self) -> str:
        return f"[{self._version.version}]{self.job_id}"

    @property
    def client_context(self) -> ClientContext | None:
        request = self._fields.get("request")
        given = request.get("client_context") if isinstance(request, dict) else None
        return None if given is None else ClientContext(given)

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the worker ends this invocation, at least 0."""
        return max(0, int(self._fields["remaining_ms"] - (time.monotonic() - self._began_s) * 1000))

    def __repr__(self) -> str:
        return f"Context(function={self.function_name!r}, job_id={self.job_id!r}, attempt={self.attempt})"


class ClientContext:
    """Lambda's client context: the JSON value that the caller sent, and its three members."""

    __slots__ = ("client", "custom", "env", "raw")

    def __init__(self, given: Any) -> None:  # noqa: ANN401 -- any JSON value: it is the caller's
        members = given if isinstance(given, dict) else {}
        self.raw = given
        self.custom = members.get("custom")
        self.env = members.get("env")
        self.client = members.get("client")
