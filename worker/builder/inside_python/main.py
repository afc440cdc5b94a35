"""The function that resolves and installs Python packages with uv.

It runs in a sandbox of its own that reaches the package indexes and nothing else. The worker copies
the installed files out with `read`.
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
"""One for each CPU of the sandbox."""

_files: list[tuple[str, int, bool]] = []
_offsets: list[int] = []


def handler(event: dict[str, Any], _context: object) -> object:
    return {"resolve": resolve, "install": install, "read": read}[event["do"]](event)


def resolve(event: dict[str, Any]) -> dict[str, Any]:
    """Return `{"lock": text}`, or `{"failed": uv's error output}`."""
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
    """Install the packages of the lock, and nothing else.

    Returns `{"files": [[path, size in bytes, executable], …]}`, or `{"failed": uv's error output}`.
    """
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
    """Return the bytes from offset `at` of all files joined together, in base64.

    At most `CHUNK_BYTES`, counted before the encoding.
    """
    at, chunk = event["at"], bytearray()
    index = bisect.bisect_right(_offsets, at) - 1  # the last of equal offsets: the files before it are empty
    while index < len(_files) and len(chunk) < CHUNK_BYTES:
        with open(_files[index][0], "rb") as file:
            file.seek(at + len(chunk) - _offsets[index])
            chunk += file.read(CHUNK_BYTES - len(chunk))
        index += 1
    return base64.b64encode(chunk).decode()


def _compile() -> None:
    """Compile all modules except tests.

    Tests are more than half of numpy and pandas and hardly ever imported; Python compiles them
    when they are.
    """
    paths = [
        f"{folder}/{name}"
        for folder, _, names in os.walk(TREE)
        for name in names
        if name.endswith(".py") and "/tests/" not in f"{folder}/"
    ]
    print(f"Compiling {len(paths)} files", file=sys.stderr)
    # The tree never changes, so Python need not compare the source with the compiled file
    # (PEP 552, unchecked hash-based pycs).
    program = [sys.executable, "-ISm", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", "-i"]
    compilers = []
    for number in range(COMPILERS):
        with open(f"{HOME}/compile-{number}.txt", "w") as file:
            file.write("\n".join(paths[number::COMPILERS]))
        compilers.append(subprocess.Popen([*program, file.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    for compiler in compilers:
        # Exit status 1 means that a file is not valid Python of this version: a template, or code
        # for another version. Such files stay uncompiled.
        compiler.wait()


def _list_files() -> None:
    """List plain files only: symbolic links would be meaningless outside this sandbox."""
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
    """Run uv; return its error output if it failed, else an empty string.

    Its lines are also printed as they arrive: the worker shows the last one as progress.
    """
    builds = [] if event["source_builds"] else ["--only-binary", ":all:"]
    command = [UV, *arguments, *builds, "--python", os.path.realpath(sys.executable), "--no-config", "--no-progress"]
    process = subprocess.Popen(
        command, env=_environment(event), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    text = ""
    for line in process.stderr or ():
        decoded = line.decode("utf-8", "replace")
        print(decoded, end="", file=sys.stderr)
        text = (text + decoded)[-TEXT_KEPT:]
    status = process.wait()
    if status == 0:
        return ""
    return text.strip() or f"uv ended with status {status} and printed nothing"


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
        # The index address may contain a password: it is in uv's environment only, never in an
        # argument list or on disk.
        "UV_DEFAULT_INDEX": event["index"],
        "UV_HTTP_TIMEOUT": "60",
        "UV_CONCURRENT_DOWNLOADS": "16",  # the egress proxy accepts 64 connections
        "UV_PYTHON_DOWNLOADS": "never",
        "RUST_BACKTRACE": "0",
        "NO_COLOR": "1",
    }
