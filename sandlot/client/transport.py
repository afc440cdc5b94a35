"""Connection pool to one API, and the parser of its event streams (server-sent events)."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx

from sandlot.client.results import Json, error_from
from sandlot.errors import ApiUnreachable, InvalidSettings

_CONNECT_TIMEOUT_S: Final = 5.0
_STREAM_TIMEOUT_S: Final = 45.0
"""Three pings of the API; a stream that is silent for longer is broken."""


class Connection:
    """A connection pool that sends the API key and raises errors as exceptions.

    Every method raises `ApiUnreachable` if nothing answers.
    """

    def __init__(
        self, url: str, key: str, timeout_s: float, ca_file: Path | None, transport: httpx.BaseTransport | None
    ) -> None:
        """Create the pool; it connects with the first request.

        Raises:
            InvalidSettings: `ca_file` cannot be used.
        """
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            transport=transport,
            trust_env=False,
            verify=True if ca_file is None else _ssl_context(ca_file),
        )

    def close(self) -> None:
        self._http.close()

    def request_json(self, method: str, path: str, **options: Any) -> dict[str, Json]:  # noqa: ANN401 - httpx's own keywords
        """Send a request and return its reply's JSON object; raise an error's problem document."""
        return cast(dict[str, Json], self.request(method, path, **options).json())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own keywords
        """Send a request and return its reply; raise the problem document of an error."""
        reply = self.send(method, path, **options)
        if reply.is_error:
            raise error_from(reply)
        return reply

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own keywords
        """Send a request and return its reply, whatever its status."""
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise ApiUnreachable(f"{self.url} did not answer {method} {path} in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ApiUnreachable(f"cannot reach {self.url}: {error}. Is Sandlot running (sandlot up)?") from error

    def stream(self, path: str, last_event_id: str) -> Iterator[StreamEvent]:
        """Yield the events after `last_event_id` (empty: all) until the API ends the stream.

        Raises:
            ApiUnreachable: the stream broke off.
            SandlotError: the API refused it.
        """
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id else {})
        timeout = httpx.Timeout(_STREAM_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as reply:
                if reply.is_error:
                    reply.read()
                    raise error_from(reply)
                yield from read_events(reply.iter_lines())
        except httpx.TransportError as error:
            raise ApiUnreachable(f"cannot follow {self.url}{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A server-sent event.

    `last_event_id` is the last id seen in the stream, to resume with as Last-Event-ID.
    """

    name: str
    data: str
    last_event_id: str


def read_events(lines: Iterable[str]) -> Iterator[StreamEvent]:
    """Parse a stream's lines; an event that the stream broke off in is dropped.

    See "Interpreting an event stream" in the HTML standard, of which this reads `event`, `data` and
    `id`.
    """
    name, last_event_id = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield StreamEvent(name, "\n".join(data), last_event_id)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_event_id = value


def _ssl_context(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidSettings(f"cannot use {ca_file} as a certificate authority: {error} (SANDLOT_CA_FILE)") from error
