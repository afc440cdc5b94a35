"""Send hostile requests to an API, judge every reply, and measure the server's memory.

`grammar` generates the requests; the caller starts the API.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from api.http.problems import STATUS

ANSWER_S: Final = 0.25
"""Replies arrive sooner than this, if at all; then the client shuts down its sending side."""
DEADLINE_S: Final = 20.0
"""For the connection to end after that; a connection that needs longer counts as hung."""
GROWTH_LIMIT_MIB: Final = 48
_OURS: Final = frozenset({"internal_error", "operator_error", "sandlot_error"})
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_CODE: Final = re.compile(rb'"code":"([a-z_]+)"')


@dataclass
class Verdict:
    """The replies by status, and every reply that should not have come."""

    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[str] = field(default_factory=list)
    hung: int = 0
    slowest_s: float = 0.0
    growth_mib: float = 0.0


def throw(url: str, requests: Sequence[bytes], pid: int, *, at_once: int = 24) -> Verdict:
    """Send each request on its own connection.

    The first fifth warms the server up before its memory is measured.
    """
    verdict = Verdict()
    warm = len(requests) // 5
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        _judge(verdict, requests[:warm], threads.map(lambda request: _speak(url, request), requests[:warm]))
        before_mib = memory_mib(pid)
        _judge(verdict, requests[warm:], threads.map(lambda request: _speak(url, request), requests[warm:]))
    verdict.growth_mib = memory_mib(pid) - before_mib
    return verdict


def memory_mib(pid: int) -> float:
    (line,) = re.findall(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(line) / 1024


def _speak(url: str, request: bytes) -> tuple[bytes, float, bool]:
    """The answer, how long its connection lasted, and whether it had to be given up."""
    parts = urlsplit(url)
    began_s = time.monotonic()
    answer, hung = b"", False
    with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S) as wire:
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wire.sendall(request)
                wire.settimeout(ANSWER_S)
                with contextlib.suppress(TimeoutError):
                    answer += wire.recv(65536)
                wire.settimeout(DEADLINE_S)
                wire.shutdown(socket.SHUT_WR)
                while chunk := wire.recv(65536):
                    answer += chunk
        except TimeoutError:
            hung = True
        except OSError:
            pass  # it was closed while we were still talking: an answer, too
    return answer, time.monotonic() - began_s, hung


def _judge(verdict: Verdict, requests: Sequence[bytes], answers: object) -> None:
    for request, (answer, took_s, hung) in zip(requests, answers, strict=True):  # type: ignore[call-overload]
        verdict.hung += hung
        verdict.slowest_s = max(verdict.slowest_s, took_s)
        statuses = [int(status) for status in _STATUS.findall(answer)]
        verdict.statuses.update([f"{status // 100}xx" for status in statuses] or ["closed"])
        codes = {code.decode() for code in _CODE.findall(answer)}
        if any(status >= 500 for status in statuses) and (not codes <= set(STATUS) or codes & _OURS or not codes):
            verdict.bad.append(f"{request[:300]!r} -> {answer[:300]!r}")
