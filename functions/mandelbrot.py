"""A picture of the Mandelbrot set, as a PNG made with the standard library alone.

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
    """Yield rows of RGB bytes; the colour of a point shows how soon it escapes."""
    scale = 3 / width / zoom
    colours = [colour(steps / STEPS) for steps in range(STEPS)] + [b"\0\0\0"]
    for row in range(height):
        imaginary = y + (row - height / 2) * scale
        line = (escape(complex(x + (column - width / 2) * scale, imaginary)) for column in range(width))
        yield b"".join(colours[steps] for steps in line)


def colour(part):
    """Return a colour from dark through blue and white to orange, for growing escape times."""
    red, green, blue = 9 * (1 - part) * part**3, 15 * (1 - part) ** 2 * part**2, 8.5 * (1 - part) ** 3 * part
    return bytes(min(255, int(40 + 255 * shade)) for shade in (red, green, blue))


def escape(point):
    value = 0j
    for step in range(STEPS):
        value = value * value + point
        if value.real * value.real + value.imag * value.imag > 4:
            return step
    return STEPS


def png(width, height, rows):
    """The three chunks every PNG needs (RFC 2083); each row starts with its filter, here none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
