"""The other API processes behind the same port, so that one scrape speaks of all of them.

Knows: a folder in which each process has a socket on which it says what it has counted. Does not know: what that is, who asks.
A scrape reaches any one process; asking the others then costs nothing while nobody scrapes, and is as exact as asking oneself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from sandlot.metrics import Family

_log = logging.getLogger("sandlot.api")
_PATIENCE_S: Final = 2.0
"""For a process to say what it has counted; one that is stopped must not hold up the scrape (10 s is Prometheus's own patience)."""
_LIMIT_BYTES: Final = 64 * 1024 * 1024

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(list[Family])


class Peers:
    """`number` tells this process from the others, and stays the same when it is replaced; without a folder there are no others."""

    def __init__(self, folder: Path | None, number: str, families: Callable[[], list[Family]]) -> None:
        self._folder = folder
        self._number = number
        self._families = families

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Answer the others until the end of the block."""
        if self._folder is None:
            yield
            return
        path = self._folder / self._number
        path.unlink(missing_ok=True)  # of the process that this one replaces
        async with await asyncio.start_unix_server(self._tell, path):
            ours = path.stat().st_ino
            yield
        # By now it may be the socket of the process that replaces us.
        if path.exists() and path.stat().st_ino == ours:
            path.unlink()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_encode(self._families()))
        with contextlib.suppress(ConnectionError):  # whoever asked has gone: he counts us as silent
            await writer.drain()
        writer.close()

    async def families(self) -> dict[str, list[Family]]:
        """Of every process that answers, by its number; by the empty one if there is only this."""
        if self._folder is None:
            return {"": self._families()}
        others = sorted(path for path in self._folder.iterdir() if path.name != self._number)
        answers = await asyncio.gather(*(_ask(path) for path in others))
        found = {path.name: answer for path, answer in zip(others, answers, strict=True) if answer is not None}
        return dict(sorted((found | {self._number: self._families()}).items()))


async def _ask(path: Path) -> list[Family] | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT_BYTES)
            with contextlib.closing(writer):
                return _decoder.decode(await reader.read())
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        # It has just died, or hangs; the scrape is for the others as well, and says how many answered.
        _log.warning("process not in metrics", extra={"number": path.name, "error": str(error) or "no answer"})
        return None
