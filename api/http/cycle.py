"""One request and its reply, as uvicorn drives them: the reply leaves in one piece, and a body that is here need not be waited for.

Knows: uvicorn's cycle, HTTP/1.1 framing. Does not know: routes, what a reply says.
uvicorn sends head and body apart and looks at every header with two regular expressions; one send and one look at the whole head take 12 µs
less of a call's CPU. Whatever is out of the ordinary (a stream, HEAD, a connection header) still goes uvicorn's way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent, HTTPResponseStartEvent

BODY: Final = "sandlot.body"
"""In the scope: the whole body, if it had arrived when the request's turn came."""
REPLY: Final = "sandlot.reply"
"""In the scope: a function that sends a whole reply at once, see `FastCycle.reply`."""
HUNG_UP: Final = "sandlot.hung_up"
"""In the scope: a function that says whether the caller has closed the connection by now."""
ABORT: Final = "sandlot.cut"
"""A message of ours to the server: the rest of this reply will not come. It closes the connection, by which the caller, who was told the
length, sees that what he has is not all."""
_JOINED_BYTES: Final = 65_536
"""Above, copying the body behind the head costs more than a second system call."""
_CONTROLS: Final = bytes({*range(32), 127} - {*b"\t\r\n"})


class FastCycle(RequestResponseCycle):
    _start: HTTPResponseStartEvent | None = None

    async def run_asgi(self, app: ASGI3Application) -> None:
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # which is a dict, if a typed one
        if not self.more_body and len(self.body) <= _JOINED_BYTES:
            scope[BODY] = bytes(self.body)
        scope[HUNG_UP] = self.hung_up
        scope[REPLY] = self.reply
        await super().run_asgi(app)

    def hung_up(self) -> bool:
        return bool(self.disconnected)

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started = True
            self._start = message
            return
        if message["type"] == ABORT:  # type: ignore[comparison-overlap]  # our own
            self.disconnected = True
            self.transport.close()
            return
        start, self._start = self._start, None
        if start is not None and message["type"] == "http.response.body":
            whole = not message.get("more_body", False)
            if whole and self._send_whole(start["status"], start["headers"], message.get("body", b"")):
                return
            self.response_started = False
            await super().send(start)
        await super().send(message)

    def reply(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """A whole reply without the two messages of ASGI; false if it has to be sent in these, and nothing was sent."""
        if self.response_started or not self._send_whole(status, headers, body):
            return False
        self.response_started = True
        return True

    def _send_whole(self, status: int, given: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Head and body at once; false if this reply is not of the ordinary kind, and nothing was sent."""
        if self.flow.write_paused or self.disconnected or self.scope["method"] == "HEAD":
            return False
        headers = [*self.default_headers, *given]
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if b"\r\ncontent-length: %d\r\n" % len(body) not in head or not self._is_ordinary(head, len(headers)):
            return False
        if len(body) <= _JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        self.waiting_for_100_continue = False
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True

    def _is_ordinary(self, head: bytes, headers: int) -> bool:
        """No line break or control character within a header, and no header of the application's that changes the framing."""
        return (
            head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") == headers + 2
            and len(head.translate(None, _CONTROLS)) == len(head)
            and b"\r\ntransfer-encoding: " not in head
            and head.count(b"\r\nconnection: ") == (not self.keep_alive)
            and head.count(b"\r\ncontent-length: ") == 1
        )
