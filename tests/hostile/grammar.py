"""A seeded grammar of hostile HTTP/1.1 requests, in bytes.

It bends RFC 9112 wherever a parser may trip. It opens no socket and judges no reply.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

PATHS: Final = (
    b"/", b"/healthz", b"/v1/functions", b"/v1/functions/echo", b"/v1/functions/echo/invoke", b"/v1/jobs/x", b"/v1/jobs/x/result", b"/fn/echo",
    b"/fn/echo/a/b?x=1", b"/fn/..%2f..%2fetc", b"/%00", b"/v1/functions/%ff/invoke", b"//", b"/v1/functions/echo/versions/1/bundle", b"*",
    b"http://a/", b"/v1/secrets/A", b"/docs", b"/fn/" + b"a" * 3000, b"/v1/functions/echo/invoke?wait=1e999&async=maybe", b"/metrics?\x01",
)  # fmt: skip
METHODS: Final = (b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"BREW", b"get", b"G ET", b"", b"CONNECT", b"TRACE", b"PRI")  # fmt: skip
VERSIONS: Final = (
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/9.9",
    b"HTTP/1.10",
    b"http/1.1",
    b"",
    b"HTTP/2.0",
)
ENDS: Final = (b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r")
FRAMING: Final = (
    (b"content-length: 5",), (b"content-length: 5", b"content-length: 5"), (b"content-length: 5", b"content-length: 6"),
    (b"content-length: 5, 5",), (b"content-length: +5",), (b"content-length: -1",), (b"content-length: 0x5",), (b"content-length: 5 ",),
    (b"content-length: 99999999999999999999",), (b"content-length:",), (b"content-length : 5",), (b"content-length: 1_0",),
    (b"transfer-encoding: chunked",), (b"transfer-encoding: chunked", b"content-length: 5"), (b"content-length: 5", b"transfer-encoding: chunked"),
    (b"transfer-encoding: chunked, identity",), (b"transfer-encoding: identity",), (b"transfer-encoding: xchunked",), (b"transfer-encoding:\x0bchunked",),
    (b"transfer-encoding: gzip, chunked",), (b"transfer-encoding : chunked",), (b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
    (b"Transfer-Encoding:\tchunked",), (b"transfer-encoding: \"chunked\"",), (b"x: y\r\n transfer-encoding: chunked",), (b" content-length: 5",),
)  # fmt: skip
HEADERS: Final = (
    b"host: a", b"host: a\r\nhost: b", b"host:", b"x: \xff\xfe", b"x\x00y: 1", b": novalue", b"noname", b"x: 1\r\n folded", b"expect: 100-continue",
    b"expect: nonsense", b"connection: close, keep-alive", b"connection: upgrade\r\nupgrade: websocket", b"upgrade: h2c", b"authorization: Bearer sk_x",
    b"authorization: Basic \xff", b"prefer: wait=\xff, respond-async;;;=", b"idempotency-key: " + b"k" * 5000, b"range: bytes=9-1", b"x-request-id: a\tb",
    b"content-type: application/json; charset=\xff", b"cookie: " + b"a=b;" * 500, b"traceparent: 00-zz", b"x-sandlot-delay: -1s", b"if-match: \"",
    b"x-sandlot-expires: 99999999999999999999d", b"content-encoding: gzip",
)  # fmt: skip
BODIES: Final = (
    b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"ZZ\r\nhello\r\n0\r\n\r\n", b"5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n",
    b"ffffffffffffffff\r\nx", b"[" * 5000, b'{"a":' * 300, b"NaN", b"1e999", b'"\\ud800"', b"\xff\xfe", b"9" * 5000, b'{"a":1,"a":2}', b"0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
    b"\x00" * 64, b'{"source": 1}', b'{"source": "def handler(", "filename": "../../x.py"}', b"PK\x03\x04" + b"\x00" * 60,
)  # fmt: skip


def requests(seed: int, count: int) -> list[bytes]:
    """So many requests, the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - it has to be repeatable, not secret
    shapes: tuple[Callable[[random.Random], bytes], ...] = (_bent, _bent, _cut, _noise, _pipelined, _mild, _mild)
    return [dice.choice(shapes)(dice) for _ in range(count)]


def _bent(dice: random.Random) -> bytes:
    end = dice.choice(ENDS)
    lines = [b" ".join((dice.choice(METHODS), dice.choice(PATHS), dice.choice(VERSIONS)))]
    lines += dice.choices(HEADERS, k=dice.randrange(4))
    lines += dice.choice(FRAMING) if dice.random() < 0.7 else ()
    dice.shuffle(lines[1:])
    return end.join(lines) + end + end + dice.choice(BODIES)


def _mild(dice: random.Random) -> bytes:
    """Well framed, so that it gets to where bodies, paths and headers are read."""
    body = dice.choice(BODIES)
    method, path = dice.choice(METHODS[:5]), dice.choice(PATHS)
    lines = [b"%b %b HTTP/1.1" % (method, path), b"host: a", b"content-length: %d" % len(body)]
    lines += [
        header for header in dice.choices(HEADERS, k=dice.randrange(3)) if not header.startswith((b"host", b"expect"))
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _cut(dice: random.Random) -> bytes:
    whole = _bent(dice)
    return whole[: dice.randrange(len(whole) + 1)]


def _noise(dice: random.Random) -> bytes:
    whole = bytearray(_bent(dice))
    for _ in range(dice.randrange(1, 8)):
        whole[dice.randrange(len(whole))] = dice.randrange(256)
    return bytes(whole)


def _pipelined(dice: random.Random) -> bytes:
    return b"".join(_bent(dice) for _ in range(dice.randrange(2, 6)))
