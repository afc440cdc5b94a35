"""Resolve and install Python packages with uv. Runs as a function, in a sandbox of its own that reaches the package indexes and nothing else.

Knows: uv's command line. Does not know: Redis, the worker's disk, where the packages go; the worker reads them with `read`.
"""

from __future__ import annotations

import base64
import bisect
import os
import subprocess
import sys
from typing import Any

HOME = "/tmp"  # noqa: S108 -- the sandbox's own memory
UV = "/packages/uv"
TREE = f"{HOME}/tree"
TEXT_KEPT = 16 * 1024
CHUNK_BYTES = 4 * 1024 * 1024
COMPILERS = 2
"""As many as the sandbox has CPUs."""

_files: list[tuple[str, int, bool]] = []
_offsets: list[int] = []


def handler(event: dict[str, Any], _context: object) -> object:
    return {"resolve": resolve, "install": install, "read": read}[event["do"]](event)


def resolve(event: dict[str, Any]) -> dict[str, Any]:
    """`{"lock": text}`, or `{"failed": what uv said}`."""
    with open(f"{HOME}/requirements.in", "w") as file:
        file.write("\n".join(event["requirements"]) + "\n")
    target = f"{HOME}/lock.txt"
    command = [
        "pip",
        "compile",
        file.name,
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--output-file",
        target,
    ]
    failed = _uv(command, event)
    if failed:
        return {"failed": failed}
    with open(target) as file:
        return {"lock": file.read()}


def install(event: dict[str, Any]) -> dict[str, Any]:
    """`{"files": [[path, bytes, executable], …]}`, or `{"failed": what uv said}`. Nothing is installed that is not in the lock."""
    with open(f"{HOME}/install.txt", "w") as file:
        file.write(event["lock"])
    failed = _uv(
        ["pip", "install", "--requirement", file.name, "--require-hashes", "--no-deps", "--target", TREE], event
    )
    if failed:
        return {"failed": failed}
    _compile()
    _list_files()
    return {"files": [[path[len(TREE) + 1 :], size, executable] for path, size, executable in _files]}


def read(event: dict[str, Any]) -> str:
    """The next bytes of all files, one after the other, in base64."""
    at, chunk = event["at"], bytearray()
    index = bisect.bisect_right(_offsets, at) - 1  # of equal offsets the last: those before it are empty
    while index < len(_files) and len(chunk) < CHUNK_BYTES:
        with open(_files[index][0], "rb") as file:
            file.seek(at + len(chunk) - _offsets[index])
            chunk += file.read(CHUNK_BYTES - len(chunk))
        index += 1
    return base64.b64encode(chunk).decode()


def _compile() -> None:
    """Bytecode of everything but tests, which are more than half of numpy and pandas and are hardly ever imported; whoever does compiles them then."""
    paths = [
        f"{folder}/{name}"
        for folder, _, names in os.walk(TREE)
        for name in names
        if name.endswith(".py") and "/tests/" not in f"{folder}/"
    ]
    print(f"Compiling {len(paths)} files", file=sys.stderr)
    # Nothing in the tree ever changes, so nobody need look at the source again to believe the compiled file.
    program = [sys.executable, "-ISm", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", "-i"]
    compilers = []
    for number in range(COMPILERS):
        with open(f"{HOME}/compile-{number}.txt", "w") as file:
            file.write("\n".join(paths[number::COMPILERS]))
        compilers.append(subprocess.Popen([*program, file.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    for compiler in compilers:
        compiler.wait()  # its status is 1 if a file is not Python of this version (a template, code for others): that is left as it is


def _list_files() -> None:
    """Plain files only: a link has no meaning anywhere else."""
    total = 0
    os.makedirs(TREE, exist_ok=True)
    for folder, _, names in os.walk(TREE):
        for name in names:
            path = f"{folder}/{name}"
            if os.path.islink(path) or not os.path.isfile(path) or path == f"{TREE}/.lock":
                continue
            status = os.stat(path)
            _files.append((path, status.st_size, bool(status.st_mode & 0o100)))
            _offsets.append(total)
            total += status.st_size


def _uv(arguments: list[str], event: dict[str, Any]) -> str:
    """What uv said if it failed, else nothing. Its lines are printed as they come: they are the progress."""
    builds = [] if event["source_builds"] else ["--only-binary", ":all:"]
    command = [UV, *arguments, *builds, "--python", os.path.realpath(sys.executable), "--no-config", "--no-progress"]
    process = subprocess.Popen(
        command, env=_environment(event), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    text = ""
    for line in process.stderr or ():
        said = line.decode("utf-8", "replace")
        print(said, end="", file=sys.stderr)
        text = (text + said)[-TEXT_KEPT:]
    status = process.wait()
    if status == 0:
        return ""
    return text.strip() or f"uv ended with status {status} and said nothing"


def _environment(event: dict[str, Any]) -> dict[str, str]:
    certificates = {}
    if event["certificates"]:
        with open(f"{HOME}/certificates.pem", "w") as file:
            file.write(event["certificates"])
        certificates = {"SSL_CERT_FILE": file.name}
    return {
        **os.environ,
        **certificates,
        "UV_CACHE_DIR": f"{HOME}/cache",
        # In the environment of uv alone: with what is not in an argument list, nor on a disk.
        "UV_DEFAULT_INDEX": event["index"],
        "UV_HTTP_TIMEOUT": "60",
        "UV_CONCURRENT_DOWNLOADS": "16",  # the proxy takes 64 connections
        "UV_PYTHON_DOWNLOADS": "never",
        "RUST_BACKTRACE": "0",
        "NO_COLOR": "1",
    }
