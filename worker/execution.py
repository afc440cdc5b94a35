"""Values and the interface that the engine and the pool share.

Import-linter keeps both sides apart: the engine knows no sandbox, the pool knows no Redis.
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
    """Everything a sandbox needs in order to hold one version."""

    function: str
    version: int
    digest: str
    runtime: Runtime
    handler: str
    bundle_dir: Path
    """Read-only, and complete before this value exists."""
    packages_dir: Path | None = None
    """The installed dependencies, read-only and complete as well. All versions with the same lock
    share one folder."""
    memory_limit_mib: int = 256
    isolation: Isolation = Isolation.REUSE
    environment: Mapping[str, str] = field(default_factory=dict)
    log_limit_bytes: int = 64 * 1024
    secret_names: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables and files in the sandbox's memory; never printed."""
    network: tuple[str, ...] = ()
    """Hosts that the function may reach through the proxy; if empty, it has no network at all."""
    require: tuple[str, ...] = ()
    """Isolation features by their names in `sandlot.receipt`. A sandbox that lacks one of them does
    not run this version."""


class Execution(msgspec.Struct, eq=False):
    """One attempt at one job.

    `event` is unparsed JSON text; the pool drops its reference once the event is sent. `request` is
    the text of a JSON object, or empty.
    """

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


OnDone = Callable[[Execution, Outcome | SandlotError], None]
"""Takes an execution and its outcome, or the platform's error if it could not be executed."""


class Executor(Protocol):
    """Interface of the pool, as the engine sees it."""

    slots: int
    """Executions that run at once. The engine keeps to this number; an executor does not check."""
    runtimes: frozenset[Runtime]

    def start(self, execution: Execution, on_done: OnDone) -> None:
        """Run it as soon as there is a sandbox for it.

        Never raises and never blocks. The executor calls `on_done` exactly once, from the event
        loop.
        """

    def cancel(self, job_id: str) -> bool:
        """Kill its sandbox; `on_done` gets an outcome of kind `cancelled`.

        Returns:
            False if this job does not run here.
        """

    def abandon(self, job_id: str) -> bool:
        """Kill its sandbox and never call `on_done`.

        Returns:
            False if this job does not run here.
        """

    def output_of(self, job_id: str) -> bytes:
        """Return the kept part of the output so far; empty for a job that does not run here."""
        ...
