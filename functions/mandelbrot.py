"""A picture computed on the spot, as a PNG made with nothing but the standard library.

Open http://127.0.0.1:8000/fn/mandelbrot?width=480&x=-0.745&y=0.113&zoom=60 in a browser.
"""
# /// script
# [tool.sandlot]
# visibility = "public"
# timeout = "20s"
# ///

import base64
import struct
import zlib

STEPS = 96
WIDEST = 800


def handler(event, context):
    asked = event.get("queryStringParameters") or {}
    width = min(int(asked.get("width", 320)), WIDEST)
    picture = png(
        width,
        width * 2 // 3,
        pixels(
            width, width * 2 // 3, float(asked.get("x", -0.6)), float(asked.get("y", 0)), float(asked.get("zoom", 1))
        ),
    )
    return {
        "statusCode": 200,
        "headers": {"content-type": "image/png", "cache-control": "max-age=3600"},
        "body": base64.b64encode(picture).decode(),
        "isBase64Encoded": True,
    }


def pixels(width, height, x, y, zoom):
    """Rows of RGB bytes; how fast a point escapes is its colour."""
    scale = 3 / width / zoom
    for row in range(height):
        line = bytearray()
        for column in range(width):
            steps = escape(complex(x + (column - width / 2) * scale, y + (row - height / 2) * scale))
            line += bytes(
                (min(255, steps * 3), min(255, steps * steps // 24), min(255, steps * 6 if steps < STEPS else 0))
            )
        yield bytes(line)


def escape(point):
    value = 0j
    for step in range(STEPS):
        value = value * value + point
        if value.real * value.real + value.imag * value.imag > 4:
            return step
    return 0


def png(width, height, rows):
    """The three chunks every PNG needs (RFC 2083); each row starts with its filter, here none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
