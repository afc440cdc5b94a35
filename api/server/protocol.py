"""HTTP/1.1 on one connection: uvicorn's protocol with limits on connections and heads.

It refuses too many connections, heads that are too large or too slow, and ambiguous requests.
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

HEAD_LIMIT_BYTES: Final = 64 * 1024
HEADERS_LIMIT: Final = 200
HEAD_DEADLINE_S: Final = 10.0
"""
From the first byte of a request, or the start of the connection, to the last byte of its head. An
idle kept-alive connection has a deadline of its own.
"""
LAST_REQUEST_S: Final = 0.5
"""How long a stopping server waits on an idle connection for a request that may be in transit."""


class ConnectionLimits:
    """Counts the connections of this process, in total and by address.

    Proxies and this machine have no limit by address, since many callers connect through them.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.connections_limit
        self._limit_per_address = settings.connections_limit_per_address
        self._exempt: tuple[Network, ...] = read_proxies(settings)
        self._count = 0
        self._of: Counter[str] = Counter()

    def enter(self, address: str) -> str:
        """Count a connection, and return why it is refused; empty if it is accepted.

        Every connection that entered, refused or not, has to `leave`.
        """
        self._count += 1
        self._of[address] += 1
        if self._count > self._limit:
            return f"this process already has {self._limit} connections, its limit"
        if self._of[address] > self._limit_per_address and not self._may_have_many(address):
            return f"your address already has {self._limit_per_address} connections, its limit"
        return ""

    def leave(self, address: str) -> None:
        """Uncount a connection that has closed."""
        self._count -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def _may_have_many(self, address: str) -> bool:
        return not address or is_loopback(address) or is_in(address, self._exempt)


class HeadTooLargeError(Exception):
    """The head is too large. uvicorn's parser answers this by calling `send_400_response`."""


class AmbiguousHeadError(Exception):
    """The head can be read in two ways. Handled like HeadTooLargeError."""


class FastProtocol(HttpToolsProtocol):
    """One connection to a caller."""

    def __init__(self, connections: ConnectionLimits, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - passed on to uvicorn
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
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
        """Start the cycle of a request.

        This is uvicorn's method with FastCycle, the checks of the head, and without WebSockets and
        uvicorn's own limits, which are not used here.
        """
        self._in_head = False
        self._clear_deadline()
        # _head_bytes includes bytes that arrived after the head, so the exact sum decides.
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
        else:  # pipelined: it starts when the reply before it is sent
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _is_ambiguous(self, http_version: str) -> bool:
        """Return whether another parser could read this head differently.

        httptools accepts no or two Host headers, and two lengths of a body (RFC 9112, sections 3.2,
        6.1 and 6.3); a proxy that reads them differently would allow request smuggling.
        """
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
        """Do what uvicorn does, with one keep-alive timer per connection instead of one per reply.

        When the timer fires, it checks since when the connection has been idle.
        """
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
        """Close the connection when it is idle, but still answer a request that is in transit.

        uvicorn closes idle connections at once, and such a request would get a reset.
        """
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
            return  # a request is being served; its reply starts the timer again
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.timeout_keep_alive_handler()
        else:
            self._idle_check = self.loop.call_later(left_s, self._close_if_idle)

    def send_400_response(self, msg: str) -> None:
        """Send a problem document and close: where the next request begins is unknown."""
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
    "bad_request": "the request is not valid HTTP (RFC 9112), or it could be read in two ways",
    "head_too_large": f"the request line and headers have more than {HEAD_LIMIT_BYTES} bytes or {HEADERS_LIMIT} headers",
    "head_timeout": f"the headers did not arrive within {HEAD_DEADLINE_S:g} s",
}
