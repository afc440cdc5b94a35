"""A package index (PEP 503) on port 8080 with one wheel, `greeter` 1.0, for container tests.

It uses the standard library alone, because it runs in Sandlot's image.
"""

import hashlib
import io
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILE = "greeter-1.0-py3-none-any.whl"
INFO = "greeter-1.0.dist-info"


def wheel():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("greeter/__init__.py", "VERSION = '1.0'\n")
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    return packed.getvalue()


WHEEL = wheel()
PAGE = (
    f'<!DOCTYPE html><html><body><a href="/{FILE}#sha256={hashlib.sha256(WHEEL).hexdigest()}">{FILE}</a></body></html>'
)
BODIES = {"/simple/greeter/": ("text/html", PAGE.encode()), f"/{FILE}": ("application/octet-stream", WHEEL)}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, body = BODIES.get(self.path, ("text/plain", b""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
