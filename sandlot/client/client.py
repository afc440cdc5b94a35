"""The client: one method per operation of the API."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import quote

import httpx
import msgspec

from sandlot.client.results import NO_PROBLEM, InvokeResult, Json, error_from, read_server_timing
from sandlot.client.transport import Connection
from sandlot.errors import ApiUnreachable
from sandlot.models import JobStatus, OutcomeKind

_POLL_S: Final = 30.0
"""Duration of one long poll. The API caps longer ones, and a proxy may cut them off."""
_RETRY_S: Final = 1.0
"""Pause before reconnecting to a stream that ended early."""
_OUTCOMES: Final = frozenset(kind.value for kind in OutcomeKind)


class Client:
    """A connection pool to one API. Threads may share it, as long as none uses it while another
    closes it.

    Every call raises `ApiUnreachable` if nothing answers, and the `SandlotError` of the problem
    document if the API answers with one.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        timeout_s: float = 330.0,
        *,
        ca_file: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Create a client; it connects with the first request.

        Args:
            timeout_s: limit for one reply; it should exceed the API's own limit on waiting (300 s
                by default).
            ca_file: certificate authority (PEM) to trust for an https API, instead of the public
                ones.

        Raises:
            InvalidSettings: `ca_file` cannot be used.
        """
        self._connection = Connection(url, key, timeout_s, ca_file, transport)

    @property
    def url(self) -> str:
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def invoke(
        self,
        name: str,
        event: Json = None,
        *,
        version: str | None = None,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> InvokeResult:
        """Call a function and wait until the call ends.

        Args:
            event: bytes are sent unchanged and must be JSON text; any other value is encoded.
            wait_s: seconds to wait; by default the function's time limit plus the API's allowance
                for queueing.

        Raises:
            WaitTimeout: the call has not ended; `fields["job"]` has the links of its job.
        """
        headers = _without_empty({"prefer": _prefer_wait(wait_s), "idempotency-key": idempotency_key})
        reply = self._connection.send(
            "POST",
            _invoke_path(name),
            params=_without_empty({"version": version}),
            headers=headers,
            content=_encode(event),
        )
        outcome = reply.headers.get("x-sandlot-outcome", "")
        if reply.is_error and outcome not in _OUTCOMES:
            raise error_from(reply)
        return InvokeResult(
            outcome=OutcomeKind(outcome or "ok"),
            value=b"" if reply.is_error else reply.content,
            job_id=reply.headers.get("x-job-id", ""),
            version=reply.headers.get("x-function-version", ""),
            timings=read_server_timing(reply.headers.get("server-timing", "")),
            problem=cast(Mapping[str, Json], reply.json()) if reply.is_error else NO_PROBLEM,
        )

    def submit(
        self,
        name: str,
        event: Json = None,
        *,
        version: str | None = None,
        delay_s: float | None = None,
        expires_s: float | None = None,
        idempotency_key: str | None = None,
        callback_url: str | None = None,
    ) -> dict[str, Json]:
        """Queue a call and return its job's document at once.

        Args:
            callback_url: receives a signed POST when the job ends, if the operator allows its host.
        """
        headers = {"prefer": "respond-async"} | _without_empty(
            {
                "x-sandlot-delay": delay_s and f"{delay_s:g}s",
                "x-sandlot-expires": expires_s and f"{expires_s:g}s",
                "idempotency-key": idempotency_key,
                "x-callback-url": callback_url,
            }
        )
        return self._connection.request_json(
            "POST",
            _invoke_path(name),
            params=_without_empty({"version": version}),
            headers=headers,
            content=_encode(event),
        )

    def status(self) -> dict[str, Json]:
        """Return queues, workers and the workers' counters since they started.

        The differences between two of these documents give rates.
        """
        return self._connection.request_json("GET", "/v1/status")

    def invoke_batch(
        self,
        name: str,
        events: Sequence[Json] | bytes,
        *,
        version: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[str]:
        """Queue one call per event, all or none, and return the ids of the jobs in order.

        Args:
            events: at most 1,000 events, or a JSON array as text.
        """
        reply = self._connection.request_json(
            "POST",
            f"{_function_path(name)}/invoke-batch",
            params=_without_empty({"version": version}),
            headers=_without_empty({"idempotency-key": idempotency_key}),
            content=_encode(events),
        )
        return cast(list[str], reply["jobs"])

    def jobs(
        self, *, function: str | None = None, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> dict[str, Json]:
        """Return a page of the key's jobs, newest first.

        The page has `jobs`, and in `next` the cursor of the next page or None.
        """
        filters = _without_empty({"function": function, "status": status, "limit": limit, "cursor": cursor})
        return self._connection.request_json("GET", "/v1/jobs", params=filters)

    def job(self, job_id: str, *, wait_s: float | None = None) -> dict[str, Json]:
        """Return a job's document, at once or when it ends, after `wait_s` at the latest."""
        return self._connection.request_json(
            "GET", _job_path(job_id), headers=_without_empty({"prefer": _prefer_wait(wait_s)})
        )

    def wait(self, job_id: str) -> dict[str, Json]:
        """Return a job's document once it has ended, however long that takes."""
        while True:
            job = self.job(job_id, wait_s=_POLL_S)
            if JobStatus(job["status"]).final:
                return job

    def result(self, job_id: str) -> bytes | None:
        """Return the JSON text that the job's function returned; None if the job has not ended.

        Raises:
            NoResult: it ended without a result.
        """
        reply = self._connection.request("GET", _job_path(job_id) + "/result")
        return None if reply.status_code == httpx.codes.ACCEPTED else reply.content

    def logs(self, job_id: str) -> str:
        """Return what the job's function has written to stdout and stderr."""
        return self._connection.request("GET", _job_path(job_id) + "/logs").text

    def follow(self, job_id: str) -> Iterator[tuple[str, dict[str, Json]]]:
        """Yield a job's events as they happen, until it has ended.

        An event is its name (`status`, `log` or `result`) and its document.

        A stream that breaks off is resumed where it was.
        """
        last_event_id = ""
        while True:
            try:
                for event in self._connection.stream(_job_path(job_id) + "/events", last_event_id):
                    last_event_id = event.last_event_id or last_event_id
                    if event.name:
                        yield event.name, msgspec.json.decode(event.data)
                    if event.name in ("result", "gone"):
                        return
            except ApiUnreachable:
                if not last_event_id:
                    raise
            time.sleep(_RETRY_S)

    def cancel(self, job_id: str) -> dict[str, Json]:
        """Cancel a job and return its document."""
        return self._connection.request_json("DELETE", _job_path(job_id))

    def retry(self, job_id: str) -> dict[str, Json]:
        """Queue a new job with an ended job's event and version, and return the new job."""
        return self._connection.request_json("POST", _job_path(job_id) + "/retry")

    def dead_letters(self, function: str = "") -> list[dict[str, Json]]:
        """Return the dead letters that the key may see, newest first, or those of one function."""
        found: list[dict[str, Json]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self._connection.request_json(
                "GET", "/v1/dead-letters", params=_without_empty({"function": function, "limit": 200, "cursor": cursor})
            )
            found += page["dead_letters"]
            cursor = page["next"]
        return found

    def dead_letter(self, job_id: str) -> dict[str, Json]:
        """Return a dead letter's document, with its `event` up to 64 KiB."""
        return self._connection.request_json("GET", _dead_letter_path(job_id))

    def redrive(self, job_id: str) -> dict[str, Json]:
        """Submit a dead letter as a new job and return that job.

        Repeated for the same dead letter, it returns the same job.
        """
        return self._connection.request_json("POST", _dead_letter_path(job_id) + "/redrive")

    def purge(self, job_id: str) -> None:
        """Delete a dead letter."""
        self._connection.request("DELETE", _dead_letter_path(job_id))

    def functions(self) -> list[dict[str, Json]]:
        """Return the documents of all deployed functions in the order of their names."""
        functions: list[dict[str, Json]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self._connection.request_json("GET", "/v1/functions", params=_without_empty({"cursor": cursor}))
            functions += page["functions"]
            cursor = page["next"]
        return functions

    def function(self, name: str, *, version: str | None = None) -> dict[str, Json]:
        """Return a function's document, or that of one of its versions (a number or an alias)."""
        return self._connection.request_json("GET", _function_path(name), params=_without_empty({"version": version}))

    def deploy(
        self,
        name: str,
        *,
        source: str,
        filename: str | None = None,
        manifest: Mapping[str, Json] | None = None,
        revision: str = "",
    ) -> dict[str, Json]:
        """Deploy one source file and return its version. Redeploying unchanged code keeps the
        current version.

        Args:
            filename: its suffix determines the runtime; without it, the source is Python.
            revision: if given, deploy only if the function is still at this revision.

        Raises:
            VersionConflict: the function is at another revision.
        """
        body = {"source": source} | _without_empty({"filename": filename, "manifest": manifest})
        return self._connection.request_json("PUT", _function_path(name), json=body, headers=_if_match(revision))

    def deploy_archive(self, name: str, archive: bytes, *, revision: str = "") -> dict[str, Json]:
        """Deploy a folder as a zip archive and return its version; `revision` as for `deploy`."""
        headers = {"content-type": "application/zip"} | _if_match(revision)
        return self._connection.request_json("PUT", _function_path(name), content=archive, headers=headers)

    def move_alias(
        self, name: str, alias: str, version: int, *, weights: Mapping[int, float] | None = None, revision: str = ""
    ) -> dict[str, Json]:
        """Point an alias, or `$LATEST`, at a version.

        Args:
            weights: other versions and the share of the calls that each gets, between 0 and 1.
            revision: as for `deploy`.
        """
        body = {"version": version} | _without_empty({"weights": weights})
        path = f"{_function_path(name)}/aliases/{quote(alias, safe='')}"
        return self._connection.request_json("PUT", path, content=_encode(body), headers=_if_match(revision))

    def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias; its versions stay."""
        self._connection.request("DELETE", f"{_function_path(name)}/aliases/{quote(alias, safe='')}")

    def download(self, name: str, version: str) -> bytes:
        """Return a version's code and settings as a zip archive."""
        return self._connection.request(
            "GET", f"{_function_path(name)}/versions/{quote(version, safe='')}/bundle"
        ).content

    def set_secret(self, name: str, value: str, *, prefix: str = "") -> dict[str, Json]:
        """Set or replace a secret for the functions whose names begin with `prefix`."""
        return self._connection.request_json(
            "PUT", _secret_path(name), content=_encode({"value": value, "prefix": prefix})
        )

    def secrets(self) -> list[dict[str, Json]]:
        """Return the name, prefix and time of every secret; values are never returned."""
        return cast(list[dict[str, Json]], self._connection.request_json("GET", "/v1/secrets")["secrets"])

    def delete_secret(self, name: str) -> None:
        self._connection.request("DELETE", _secret_path(name))

    def delete(self, name: str) -> None:
        """Delete a function with all its versions."""
        self._connection.request("DELETE", _function_path(name))

    def health(self) -> dict[str, Json]:
        """Return the reply of `/readyz`.

        It has `status` (`ready`), `queued`, `running`, and live `workers` by placement.

        If the platform is not ready, it is a problem document that says why.
        """
        return cast(dict[str, Json], self._connection.send("GET", "/readyz").json())


def _function_path(name: str) -> str:
    return f"/v1/functions/{quote(name, safe='')}"


def _invoke_path(name: str) -> str:
    return _function_path(name) + "/invoke"


def _secret_path(name: str) -> str:
    return f"/v1/secrets/{quote(name, safe='')}"


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _dead_letter_path(job_id: str) -> str:
    return f"/v1/dead-letters/{quote(job_id, safe='')}"


def _encode(event: Json) -> bytes:
    return event if isinstance(event, bytes) else msgspec.json.encode(event)


def _without_empty(values: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value}


def _prefer_wait(wait_s: float | None) -> str | None:
    return None if wait_s is None else f"wait={wait_s:g}"


def _if_match(revision: str) -> dict[str, str]:
    return {"if-match": f'"{revision}"'} if revision else {}
