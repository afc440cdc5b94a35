"""What the engine hands to the pool: which version, which call.

Knows: the values that cross from engine to pool. Does not know: Redis, sandboxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from sandlot.errors import SandlotError
from sandlot.models import Isolation, Outcome, Runtime


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """All that is needed to hold one version in a sandbox. `bundle_dir` is read-only and complete before anyone sees this."""

    function: str
    version: int
    digest: str
    runtime: Runtime
    handler: str
    bundle_dir: Path
    packages_dir: Path | None = None
    """What its dependencies are installed in: read-only and complete too, shared by all versions with the same lock."""
    memory_limit_mib: int = 256
    isolation: Isolation = Isolation.REUSE
    environment: Mapping[str, str] = field(default_factory=dict)
    log_limit_bytes: int = 64 * 1024
    secret_names: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of the environment, and files in the sandbox's memory; never printed."""
    network: tuple[str, ...] = ()
    """Hosts that may be reached through the proxy; none: no network at all."""
    require: tuple[str, ...] = ()
    """Names from `sandlot.receipt`: where one of them does not stand, this version is not run."""


class Execution(msgspec.Struct, eq=False):
    """One attempt at one job. `event` is JSON text, not looked at, and let go of once it is sent; `request` is a JSON object's text, or empty."""

    job_id: str
    attempt: int
    function: str
    version: int
    digest: str
    event: bytes | memoryview
    wall_limit_ms: int
    traceparent: str = ""
    queued_ms: float = 0.0
    request: bytes = b""


Done = Callable[[Execution, Outcome | SandlotError], None]


class Executor(Protocol):
    """Runs executions, at most `slots` at once."""

    slots: int
    runtimes: frozenset[Runtime]

    def start(self, execution: Execution, done: Done) -> None:
        """Never raises, never blocks; `done` is called exactly once, from the loop."""

    def cancel(self, job_id: str) -> bool:
        """Kill it; `done` gets an outcome of kind `cancelled`."""

    def abandon(self, job_id: str) -> bool:
        """Kill it; `done` is never called."""

    def printed(self, job_id: str) -> bytes:
        """What it has printed so far, as far as it is kept; nothing for a job that does not run here."""
        ...
