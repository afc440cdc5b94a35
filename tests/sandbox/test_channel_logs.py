"""The log pipe: always drained, a bounded part kept, and a line that says what is missing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest

from tests.waiting import HANG_S
from worker.sandbox.log_pipe import FLOOD_LIMIT_BYTES, LINES_LIMIT, LogPipe

PATIENCE_S = HANG_S


class Printer:
    """The write end of a pipe and the log that drains it."""

    def __init__(self, limit_bytes: int) -> None:
        self._read_fd, self.fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self.fd, False)
        self.floods = 0
        self.log = LogPipe(self._read_fd, limit_bytes, self._on_flood)

    def _on_flood(self) -> None:
        self.floods += 1
        self.log.close()

    async def print(self, data: bytes) -> None:
        """Write all of it, while the log drains the pipe; fails if it does not."""
        rest = memoryview(data)
        async with asyncio.timeout(PATIENCE_S):
            while rest and not self.floods:
                try:
                    rest = rest[os.write(self.fd, rest) :]
                except BlockingIOError:
                    await asyncio.sleep(0)

    def close(self) -> None:
        self.log.close()
        os.close(self._read_fd)
        os.close(self.fd)


@pytest.fixture
async def printer() -> AsyncIterator[Callable[[int], Printer]]:
    made: list[Printer] = []

    def make(limit_bytes: int = 1000) -> Printer:
        made.append(Printer(limit_bytes))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def test_output_is_taken_once(printer: Callable[[], Printer]) -> None:
    one = printer()
    os.write(one.fd, b"a\n")
    os.write(one.fd, b"b\n")
    assert one.log.take_output() == b"a\nb\n"
    assert one.log.take_output() == b""


async def test_more_than_the_limit_is_drained_and_counted(printer: Callable[[int], Printer]) -> None:
    one = printer(10)
    await one.print(b"0123456789" * 100_000)
    assert one.log.take_output() == b"0123456789\n[sandlot] 999990 more bytes were printed; 10 bytes are kept\n"


async def test_the_limit_starts_again_with_the_next_invocation(printer: Callable[[int], Printer]) -> None:
    one = printer(10)
    await one.print(b"x" * 100)
    one.log.take_output()
    await one.print(b"short\n")
    assert one.log.take_output() == b"short\n"


async def test_lines_are_limited_too(printer: Callable[[int], Printer]) -> None:
    one = printer(1_000_000)
    await one.print(b"\n" * (LINES_LIMIT + 50))
    kept = one.log.take_output()
    assert kept.count(b"\n") == LINES_LIMIT + 1
    assert kept.endswith(b"[sandlot] 50 more bytes were printed; 10000 lines are kept\n")


async def test_a_flood_of_output_is_reported(printer: Callable[[], Printer]) -> None:
    one = printer()
    await one.print(bytes(FLOOD_LIMIT_BYTES + 2_000_000))
    assert one.floods == 1


async def test_a_flood_of_output_leaves_the_loop_to_others(printer: Callable[[], Printer]) -> None:
    one = printer()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not one.floods:
            turns += 1
            await asyncio.sleep(0)

    await asyncio.gather(one.print(bytes(FLOOD_LIMIT_BYTES + 2_000_000)), other())
    assert turns > 50


async def test_the_end_of_the_pipe_is_not_an_error(printer: Callable[[], Printer]) -> None:
    one = printer()
    os.write(one.fd, b"last words")
    os.close(one.fd)
    one.fd = os.open("/dev/null", os.O_WRONLY)
    await asyncio.sleep(0)
    assert one.log.take_output() == b"last words"
    assert one.log.take_output() == b""
