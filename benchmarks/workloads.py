"""The functions that every contender serves: events, expected answers and client counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Workload:
    """One function with one event; `answer` is the parsed reply, compared without key order."""

    function: str
    event: str
    answer: Any


def _record(size_bytes: int) -> str:
    """Return a JSON object of exactly this many bytes.

    It is shaped like a record: short fields, and one long text that takes up the rest.
    """
    record = {
        "id": 1234567,
        "name": "Ada Lovelace",
        "active": True,
        "score": 98.6,
        "tags": ["analytical", "engine"],
        "note": "",
    }
    record["note"] = "x" * (size_bytes - len(json.dumps(record)))
    return json.dumps(record)


HELLO: Final = Workload("hello", "{}", {"message": "it works!", "status": "ok "})
ECHO: Final = Workload("echo", _record(1024), json.loads(_record(1024)))
CPU: Final = Workload("cpu", "{}", {"done": True})


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table: a workload at a number of clients."""

    workload: Workload
    clients: int

    @property
    def name(self) -> str:
        return f"{self.workload.function}@{self.clients}"


FULL: Final = (Cell(HELLO, 1), Cell(HELLO, 16), Cell(HELLO, 64), Cell(ECHO, 64), Cell(CPU, 16))
BRIEF: Final = (Cell(HELLO, 1), Cell(HELLO, 64))
"""Cells of a peer's untuned variant: enough to show the cost of its defaults."""
