"""What uvicorn's HTTP/1.1 protocol lacks at the edge of a network: limits on the head of a request, in bytes, in number and in time.

Knows: uvicorn's parser callbacks. Does not know: routes, bodies (`api.body` counts those).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.errors import problem
from api.joined_writes import JoinedWrites

HEAD_LIMIT_BYTES: Final = 64 * 1024
HEADERS_LIMIT: Final = 200
HEAD_DEADLINE_S: Final = 10.0
"""From the first byte of a request (or the start of the connection) to the last of its head; an idle kept-alive connection has its own."""


class HeadTooLargeError(Exception):
    """Ends the parsing; the parser turns it into a call of `send_400_response`."""


class EdgeProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **options)
        self._in_head = False
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._refusal = "bad_request"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, JoinedWrites(transport, self.loop))
        self._deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            self._head_bytes = 0
        elif self._head_bytes > HEAD_LIMIT_BYTES:
            self._refusal = "head_too_large"
            self.send_400_response("")
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._clear_deadline()
        # What came with the head counts as well, so the exact sum is taken only when it could matter.
        if len(self.headers) > HEADERS_LIMIT or (
            self._head_bytes > HEAD_LIMIT_BYTES and self._size_of_head() > HEAD_LIMIT_BYTES
        ):
            self._refusal = "head_too_large"
            raise HeadTooLargeError
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """A problem document like any other, and the end of the connection: after this, nobody knows where a request begins."""
        detail = _DETAILS.get(self._refusal, msg)
        status, headers, body = problem(self._refusal, detail, instance="")
        head = [
            STATUS_LINE[status],
            *(b"%s: %s\r\n" % header for header in [*self.server_state.default_headers, *headers]),
        ]
        if not self.transport.is_closing():
            self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", body]))
            self.transport.close()

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._in_head:
            self._refusal = "head_timeout"
            self.send_400_response("")
        else:
            self.transport.close()


_DETAILS: Final = {
    "head_too_large": f"the request line and headers have more than {HEAD_LIMIT_BYTES} bytes or {HEADERS_LIMIT} headers",
    "head_timeout": f"the headers did not arrive within {HEAD_DEADLINE_S:g} s",
}
