"""Where things are in the API. Knows: `docs/api.md`, what must be quoted. Does not know: what is done there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import quote

import httpx
import msgspec

from sandlot.client.results import ABSENT, InvokeResult, Json, problem_of, read_server_timing
from sandlot.client.transport import Connection
from sandlot.errors import ApiUnreachable
from sandlot.models import JobStatus, OutcomeKind


def function_path(name: str) -> str:
    return f"/v1/functions/{quote(name, safe='')}"


def secret_path(name: str) -> str:
    return f"/v1/secrets/{quote(name, safe='')}"


def invoke_path(name: str) -> str:
    return function_path(name) + "/invoke"


def letter_path(job_id: str) -> str:
    return f"/v1/dead-letters/{quote(job_id, safe='')}"


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


_POLL_S: Final = 30.0
"""One long poll; the API caps a longer one, and a proxy in between may cut it."""
_RETRY_S: Final = 1.0
"""Before a stream that ended early is asked for again."""
_OUTCOMES: Final = frozenset(kind.value for kind in OutcomeKind)


class Client:
    """One connection pool to one API; not safe to share between threads while it is being closed.

    Every call raises `ApiUnreachable` if nothing answers, and the `SandlotError` of the problem document if the answer is one.
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
        """
        Args:
            timeout_s: bounds one answer and should exceed the API's own cap on waiting (300 s by default).
            ca_file: the authority (PEM) that vouches for an https API, instead of the public ones.

        Raises:
            InvalidSettings: that file cannot be used.
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
        """Call a function and wait for its end.

        Args:
            event: bytes are sent as they are and must be JSON text; anything else is encoded.
            wait_s: seconds to wait; by default the function's own time limit and the API's allowance for queueing.

        Raises:
            WaitTimeout: the function still runs; `fields["job"]` has its links.
        """
        headers = _optional({"prefer": _wait(wait_s), "idempotency-key": idempotency_key})
        reply = self._connection.send(
            "POST", invoke_path(name), params=_optional({"version": version}), headers=headers, content=_encode(event)
        )
        outcome = reply.headers.get("x-sandlot-outcome", "")
        if reply.is_error and outcome not in _OUTCOMES:
            raise problem_of(reply)
        return InvokeResult(
            outcome=OutcomeKind(outcome or "ok"),
            value=b"" if reply.is_error else reply.content,
            job_id=reply.headers.get("x-job-id", ""),
            version=reply.headers.get("x-function-version", ""),
            timings=read_server_timing(reply.headers.get("server-timing", "")),
            problem=cast(Mapping[str, Json], reply.json()) if reply.is_error else ABSENT,
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
        """Queue a call and return its job at once.

        Args:
            callback_url: is told of the end by a signed POST, if the server's operator allows its host.
        """
        headers = {"prefer": "respond-async"} | _optional(
            {
                "x-sandlot-delay": delay_s and f"{delay_s:g}s",
                "x-sandlot-expires": expires_s and f"{expires_s:g}s",
                "idempotency-key": idempotency_key,
                "x-callback-url": callback_url,
            }
        )
        return self._connection.json(
            "POST", invoke_path(name), params=_optional({"version": version}), headers=headers, content=_encode(event)
        )

    def status(self) -> dict[str, Json]:
        """The queue, its workers, and what they have done since they started; two of these give rates."""
        return self._connection.json("GET", "/v1/status")

    def invoke_batch(
        self,
        name: str,
        events: Sequence[Json] | bytes,
        *,
        version: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[str]:
        """Queue a call for each event, all of them or none; the ids of the jobs, in order. `events`: at most 1,000, or a JSON array's text."""
        reply = self._connection.json(
            "POST",
            f"{function_path(name)}/invoke-batch",
            params=_optional({"version": version}),
            headers=_optional({"idempotency-key": idempotency_key}),
            content=_encode(events),
        )
        return cast(list[str], reply["jobs"])

    def jobs(
        self, *, function: str | None = None, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> dict[str, Json]:
        """One page of the key's jobs, newest first: `jobs`, and in `next` the cursor of the page after it, or nothing."""
        wanted = _optional({"function": function, "status": status, "limit": limit, "cursor": cursor})
        return self._connection.json("GET", "/v1/jobs", params=wanted)

    def job(self, job_id: str, *, wait_s: float | None = None) -> dict[str, Json]:
        """The job as it is now, or as soon as it has ended, after `wait_s` at the latest."""
        return self._connection.json("GET", job_path(job_id), headers=_optional({"prefer": _wait(wait_s)}))

    def wait(self, job_id: str) -> dict[str, Json]:
        """The job once it has ended, however long that takes."""
        while True:
            job = self.job(job_id, wait_s=_POLL_S)
            if JobStatus(job["status"]).final:
                return job

    def result(self, job_id: str) -> bytes | None:
        """The JSON text that the job's function returned; `None` while it has not ended.

        Raises:
            NoResult: it ended without one.
        """
        reply = self._connection.checked("GET", job_path(job_id) + "/result")
        return None if reply.status_code == httpx.codes.ACCEPTED else reply.content

    def logs(self, job_id: str) -> str:
        return self._connection.checked("GET", job_path(job_id) + "/logs").text

    def follow(self, job_id: str) -> Iterator[tuple[str, dict[str, Json]]]:
        """What happens to a job, as it happens: (`status` | `log` | `result`, its document) until it is over. A stream that breaks is taken up where it was."""
        place = ""
        while True:
            try:
                for event in self._connection.stream(job_path(job_id) + "/events", place):
                    place = event.place or place
                    if event.name:
                        yield event.name, msgspec.json.decode(event.data)
                    if event.name in ("result", "gone"):
                        return
            except ApiUnreachable:
                if not place:
                    raise
            time.sleep(_RETRY_S)

    def cancel(self, job_id: str) -> dict[str, Json]:
        return self._connection.json("DELETE", job_path(job_id))

    def retry(self, job_id: str) -> dict[str, Json]:
        """A new job with the event and the version of one that has ended."""
        return self._connection.json("POST", job_path(job_id) + "/retry")

    def dead_letters(self, function: str = "") -> list[dict[str, Json]]:
        """Jobs that were tried in vain, newest first: all that this key may see, or one function's."""
        letters: list[dict[str, Json]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self._connection.json(
                "GET", "/v1/dead-letters", params=_optional({"function": function, "limit": 200, "cursor": cursor})
            )
            letters += page["dead_letters"]
            cursor = page["next"]
        return letters

    def dead_letter(self, job_id: str) -> dict[str, Json]:
        """One of them, with its `event` unless that is large."""
        return self._connection.json("GET", letter_path(job_id))

    def redrive(self, job_id: str) -> dict[str, Json]:
        """A new job in its place; asked for twice, it is one."""
        return self._connection.json("POST", letter_path(job_id) + "/redrive")

    def purge(self, job_id: str) -> None:
        """It is no longer listed."""
        self._connection.checked("DELETE", letter_path(job_id))

    def functions(self) -> list[dict[str, Json]]:
        """Every deployed function, by name."""
        functions: list[dict[str, Json]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self._connection.json("GET", "/v1/functions", params=_optional({"cursor": cursor}))
            functions += page["functions"]
            cursor = page["next"]
        return functions

    def function(self, name: str, *, version: str | None = None) -> dict[str, Json]:
        return self._connection.json("GET", function_path(name), params=_optional({"version": version}))

    def deploy(
        self,
        name: str,
        *,
        source: str,
        filename: str | None = None,
        manifest: Mapping[str, Json] | None = None,
        revision: str = "",
    ) -> dict[str, Json]:
        """Deploy one source file; without a `filename` it is Python. The same source again is the same version.

        Args:
            revision: of the function as it was described; nothing is done if it is at another by now.

        Raises:
            VersionConflict: it is.
        """
        body = {"source": source} | _optional({"filename": filename, "manifest": manifest})
        return self._connection.json("PUT", function_path(name), json=body, headers=_if_match(revision))

    def deploy_archive(self, name: str, archive: bytes, *, revision: str = "") -> dict[str, Json]:
        """Deploy a folder, sent as a zip archive; `revision` as for `deploy`."""
        headers = {"content-type": "application/zip"} | _if_match(revision)
        return self._connection.json("PUT", function_path(name), content=archive, headers=headers)

    def move_alias(
        self, name: str, alias: str, version: int, *, weights: Mapping[int, float] | None = None, revision: str = ""
    ) -> dict[str, Json]:
        """Let an alias, or `$LATEST`, mean this version from now on; `weights` send shares of the calls to others. `revision` as for `deploy`."""
        body = {"version": version} | _optional({"weights": weights})
        path = f"{function_path(name)}/aliases/{quote(alias, safe='')}"
        return self._connection.json("PUT", path, content=_encode(body), headers=_if_match(revision))

    def delete_alias(self, name: str, alias: str) -> None:
        """It means nothing any more; its versions stay."""
        self._connection.checked("DELETE", f"{function_path(name)}/aliases/{quote(alias, safe='')}")

    def download(self, name: str, version: str) -> bytes:
        """A version's code as a zip."""
        return self._connection.checked(
            "GET", f"{function_path(name)}/versions/{quote(version, safe='')}/bundle"
        ).content

    def set_secret(self, name: str, value: str, *, prefix: str = "") -> dict[str, Json]:
        """Set or replace a secret, for functions whose names begin with `prefix`."""
        return self._connection.json("PUT", secret_path(name), content=_encode({"value": value, "prefix": prefix}))

    def secrets(self) -> list[dict[str, Json]]:
        """Every secret's name, prefix and time; values are never returned."""
        return cast(list[dict[str, Json]], self._connection.json("GET", "/v1/secrets")["secrets"])

    def delete_secret(self, name: str) -> None:
        self._connection.checked("DELETE", secret_path(name))

    def delete(self, name: str) -> None:
        self._connection.checked("DELETE", function_path(name))

    def health(self) -> dict[str, Json]:
        """What `/readyz` says: `ready`, `queued`, `running`, live `workers` by placement; or the problem document that says why not."""
        return cast(dict[str, Json], self._connection.send("GET", "/readyz").json())


def _encode(event: Json) -> bytes:
    return event if isinstance(event, bytes) else msgspec.json.encode(event)


def _optional(values: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value}


def _wait(wait_s: float | None) -> str | None:
    return None if wait_s is None else f"wait={wait_s:g}"


def _if_match(revision: str) -> dict[str, str]:
    return {"if-match": f'"{revision}"'} if revision else {}
