"""A private registry of npm on loopback that wants a token, and the packages it serves, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from tests.sandbox.package_index import Served, serving

TOKEN = "npm_correct-horse-battery"


class Registry(Served):
    authorization = f"Bearer {TOKEN}"
    url = ""

    def add(self, name: str, version: str, files: dict[str, str], **package: Any) -> None:
        """`package` is what `package.json` has besides."""
        text = json.dumps({"name": name, "version": version, **package})
        self.files[f"{name}/-/{version}.tgz"] = packed({"package.json": text, **files})

    def answer(self, path: str) -> tuple[str, bytes]:
        path = unquote(path).strip("/")
        return self.file(path) if path in self.files else ("application/json", self.page(path))

    def page(self, name: str) -> bytes:
        """All versions of a package, as npm reads them."""
        versions = {}
        for path, content in self.files.items():
            if path.startswith(f"{name}/-/"):
                package = json.loads(unpacked(content, "package.json"))
                sum_ = base64.b64encode(hashlib.sha512(content).digest()).decode()
                package["dist"] = {"tarball": f"{self.url}/{path}", "integrity": f"sha512-{sum_}"}
                versions[package["version"]] = package
        if not versions:
            return b""
        return json.dumps({"name": name, "dist-tags": {"latest": list(versions)[-1]}, "versions": versions}).encode()


def packed(files: dict[str, str]) -> bytes:
    """As `npm pack` does it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return whole.getvalue()


def unpacked(content: bytes, path: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile(f"package/{path}")
        assert file is not None
        return file.read()


@contextmanager
def open_registry() -> Iterator[Registry]:
    """Serves until the end, on a free port of loopback."""
    registry = Registry()
    with serving(registry, socket.create_server(("127.0.0.1", 0))) as address:
        registry.url = f"http://{address}"
        yield registry
