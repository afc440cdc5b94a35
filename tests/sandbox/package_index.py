"""A private package index on loopback or on a socket it is given, with a user and a password, and the wheels and sdists it serves, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "reader", "correct-horse-battery"


class Served:
    """What a server has for whoever knows the word. `files` by name; `seen` is what was asked for, in order."""

    authorization = ""
    """What has to be in the header of that name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.open = threading.Event()
        """Cleared, no file is handed out until it is set: a build that takes as long as a test likes."""
        self.open.set()

    def answer(self, path: str) -> tuple[str, bytes]:
        """Content type and body; nothing is a 404."""
        raise NotImplementedError

    def file(self, name: str) -> tuple[str, bytes]:
        self.open.wait(60)
        return "application/octet-stream", self.files.get(name, b"")


class Index(Served):
    authorization = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    url = ""
    """With user and password."""

    def answer(self, path: str) -> tuple[str, bytes]:
        kind, _, name = path.strip("/").partition("/")
        return self.file(name) if kind == "files" else ("text/html", self.page(name.strip("/")))

    def add_wheel(self, name: str, version: str, source: str = "") -> None:
        self.files[f"{name}-{version}-py3-none-any.whl"] = wheel(name, version, source or f"VERSION = {version!r}\n")

    def add_sdist(self, name: str, version: str) -> None:
        self.files[f"{name}-{version}.tar.gz"] = sdist(name, version)

    def page(self, name: str) -> bytes:
        links = [
            f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a>'
            for file, content in self.files.items()
            if file.startswith(f"{name}-")
        ]
        return ("<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>").encode() if links else b""


def wheel(name: str, version: str, source: str) -> bytes:
    info = f"{name}-{version}.dist-info"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}/__init__.py", source)
        archive.writestr(f"{name}/empty.txt", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return packed.getvalue()


def sdist(name: str, version: str) -> bytes:
    """A source package that builds with nothing but itself: its build backend is in the package."""
    backend = (
        "import io, zipfile, os\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        f"    name = '{name}-{version}-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(os.path.join(folder, name), 'w') as archive:\n"
        f"        info = '{name}-{version}.dist-info'\n"
        f"        archive.writestr('{name}/__init__.py', 'BUILT = True')\n"
        f"        archive.writestr(info + '/METADATA', 'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')\n"
        "        archive.writestr(info + '/WHEEL', 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        archive.writestr(info + '/RECORD', '')\n"
        "    return name\n"
    )
    files = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


@contextmanager
def open_index(listener: socket.socket | None = None) -> Iterator[Index]:
    """Serves until the end, on a free port of loopback or on `listener`, which it closes."""
    index = Index()
    with serving(index, listener or socket.create_server(("127.0.0.1", 0))) as address:
        index.url = f"http://{USER}:{PASSWORD}@{address}/simple"
        yield index


@contextmanager
def serving(served: Served, listener: socket.socket) -> Iterator[str]:
    """Its address, host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.seen.append(self.path)
            if self.headers.get("Authorization") != served.authorization:
                self.reply(401, "text/plain", b"")
                return
            kind, body = served.answer(self.path)
            self.reply(200 if body else 404, kind, body)

        do_HEAD = do_GET

        def reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", served.authorization.split(" ")[0])
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Into `seen`, not to stderr."""

    with ThreadingHTTPServer(listener.getsockname(), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        # Half a second by default, which every test would wait at its end.
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            served.open.set()
            server.shutdown()
            thread.join()
