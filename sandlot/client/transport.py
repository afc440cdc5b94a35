"""One connection pool to one API.

Knows: httpx, TLS, what it means that nothing answers. Does not know: paths, what an answer says.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx

from sandlot.client.results import Json, problem_of
from sandlot.errors import ApiUnreachable, InvalidSettings

_CONNECT_TIMEOUT_S: Final = 5.0
_SILENCE_S: Final = 45.0
"""Three pings of the API; a stream that is silent for longer is broken."""


def _believing(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidSettings(f"cannot use {ca_file} as a certificate authority: {error} (SANDLOT_CA_FILE)") from error


class Connection:
    def __init__(
        self, url: str, key: str, timeout_s: float, ca_file: Path | None, transport: httpx.BaseTransport | None
    ) -> None:
        """Raises: InvalidSettings: `ca_file` cannot be used."""
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            transport=transport,
            trust_env=False,
            verify=True if ca_file is None else _believing(ca_file),
        )

    def close(self) -> None:
        self._http.close()

    def json(self, method: str, path: str, **options: Any) -> dict[str, Json]:  # noqa: ANN401 - httpx's own keywords
        return cast(dict[str, Json], self.checked(method, path, **options).json())

    def checked(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own keywords
        reply = self.send(method, path, **options)
        if reply.is_error:
            raise problem_of(reply)
        return reply

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own keywords
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise ApiUnreachable(f"{self.url} did not answer {method} {path} in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ApiUnreachable(f"cannot reach {self.url}: {error}. Is Sandlot running (sandlot up)?") from error

    def stream(self, path: str, place: str) -> Iterator[StreamEvent]:
        """Events after `place` (the beginning, if it is empty), until the API ends them. Raises ApiUnreachable if something else does."""
        headers = {"accept": "text/event-stream"} | ({"last-event-id": place} if place else {})
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as reply:
                if reply.is_error:
                    reply.read()
                    raise problem_of(reply)
                yield from read_events(reply.iter_lines())
        except httpx.TransportError as error:
            raise ApiUnreachable(f"cannot follow {self.url}{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """`place`: the last id seen, to be sent as Last-Event-ID."""

    name: str
    data: str
    place: str


def read_events(lines: Iterable[str]) -> Iterator[StreamEvent]:
    """The events of a stream's lines; one that the stream broke off is none."""
    name, place = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield StreamEvent(name, "\n".join(data), place)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            place = value
