"""How many connections there may be: in all, and from one address.

Knows: who holds how many. Does not know: what is said on them (`api.server.protocol`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.http.cycle import FastCycle
from api.http.problems import Headers, problem
from sandlot.settings import Settings, is_loopback
from sandlot.transport_security import Network, is_in, read_proxies


class Connections:
    """The connections of this process. Proxies and this machine itself may have as many as there are: behind them are many callers."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.connections_limit
        self._limit_per_address = settings.connections_limit_per_address
        self._exempt: tuple[Network, ...] = read_proxies(settings)
        self._count = 0
        self._of: Counter[str] = Counter()

    def enter(self, address: str) -> str:
        """Why this connection is refused; empty if it is not. Whoever entered, refused or not, leaves."""
        self._count += 1
        self._of[address] += 1
        if self._count > self._limit:
            return f"there are {self._limit} connections to this process already"
        if self._of[address] > self._limit_per_address and not self._may_have_many(address):
            return f"there are {self._limit_per_address} connections from your address already"
        return ""

    def leave(self, address: str) -> None:
        self._count -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def _may_have_many(self, address: str) -> bool:
        return not address or is_loopback(address) or is_in(address, self._exempt)


HEAD_LIMIT_BYTES: Final = 64 * 1024
HEADERS_LIMIT: Final = 200
HEAD_DEADLINE_S: Final = 10.0
"""From the first byte of a request (or the start of the connection) to the last of its head; an idle kept-alive connection has its own."""


LAST_REQUEST_S: Final = 0.5
"""How long a stopping server still waits on an idle connection for a request that may be on its way."""


class HeadTooLargeError(Exception):
    """Ends the parsing; the parser turns it into a call of `send_400_response`."""


class AmbiguousHeadError(Exception):
    """The same, for a head that is not too large but says two things."""


class FastProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **options)
        self._connections = connections
        self._address = ""
        self._in_head = False
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._idle_since_s: float | None = None
        self._idle_check: asyncio.TimerHandle | None = None
        self._refusal = "bad_request"
        self._stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        refusal = self._connections.enter(self._address)
        if refusal:
            self._refuse("too_many_connections", refusal, [(b"retry-after", b"1")])
            return
        self._deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self._address)
        self._clear_deadline()
        if self._idle_check is not None:
            self._idle_check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
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
        """uvicorn's own, with our exchange instead of its cycle, and without the WebSockets and the limits that are not used here."""
        self._in_head = False
        self._clear_deadline()
        # What came with the head counts as well, so the exact sum is taken only when it could matter.
        if len(self.headers) > HEADERS_LIMIT or (
            self._head_bytes > HEAD_LIMIT_BYTES and self._size_of_head() > HEAD_LIMIT_BYTES
        ):
            self._refusal = "head_too_large"
            raise HeadTooLargeError
        http_version = self.parser.get_http_version()
        if self._is_ambiguous(http_version):
            self._refusal = "bad_request"
            raise AmbiguousHeadError
        self._fill_scope(http_version)
        before, self.cycle = (
            self.cycle,
            FastCycle(
                scope=self.scope,
                transport=self.transport,
                flow=self.flow,
                logger=self.logger,
                access_logger=self.access_logger,
                access_log=self.access_log,
                default_headers=self.server_state.default_headers,
                message_event=asyncio.Event(),
                expect_100_continue=self.expect_100_continue,
                keep_alive=http_version != "1.0" and self.parser.should_keep_alive() and not self._stopping,
                on_response=self.on_response_complete,
            ),
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:  # pipelined: its turn comes when the reply before it is sent
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _is_ambiguous(self, http_version: str) -> bool:
        """What the parser lets pass, and another one could read differently: none or two hosts, two lengths of a body (RFC 9112, sections 3.2, 6.1 and 6.3)."""
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts > 1 or (not hosts and http_version == "1.1"):
            return True
        if b"transfer-encoding" not in names:
            return False
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        return http_version != "1.1" or [coding.strip().lower() for coding in codings] != [b"chunked"]

    def _fill_scope(self, http_version: str) -> None:
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = http_version
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = target.path
        self.scope["query_string"] = target.query or b""

    def on_response_complete(self) -> None:
        """What uvicorn does, but for its timer per reply: one timer per connection looks, when it is due, since when nothing has come."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since_s = self.loop.time()
        if self._idle_check is None:
            self._idle_check = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def shutdown(self) -> None:
        """uvicorn's closes what is idle at once, and a request that is on its way just then finds a reset instead of an answer. Here it is answered."""
        self._stopping = True
        if self._idle:
            self.loop.call_later(LAST_REQUEST_S, self._close_if_still_idle)
        else:
            self.cycle.keep_alive = False

    @property
    def _idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _close_if_still_idle(self) -> None:
        if self._idle and not self._in_head:
            self.transport.close()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def _close_if_idle(self) -> None:
        self._idle_check = None
        if self._idle_since_s is None:
            return  # the next reply arms it again
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.timeout_keep_alive_handler()
        else:
            self._idle_check = self.loop.call_later(left_s, self._close_if_idle)

    def send_400_response(self, msg: str) -> None:
        """A problem document like any other, and the end of the connection: after this, nobody knows where a request begins."""
        self._refuse(self._refusal, _DETAILS.get(self._refusal, msg), [])

    def _refuse(self, code: str, detail: str, extra: Headers) -> None:
        status, headers, body = problem(code, detail, instance="", headers=extra)
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
    "bad_request": "the request is not HTTP as RFC 9112 has it, or two readers could take it for two different ones",
    "head_too_large": f"the request line and headers have more than {HEAD_LIMIT_BYTES} bytes or {HEADERS_LIMIT} headers",
    "head_timeout": f"the headers did not arrive within {HEAD_DEADLINE_S:g} s",
}
