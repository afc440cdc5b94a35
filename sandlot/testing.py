"""A platform inside a test: pytest finds the fixture `sandlot` by itself wherever Sandlot is installed.

    def test_greets_by_name(sandlot):
        greet = sandlot.deploy("functions/greet.py")
        assert greet({"name": "Ada"}) == {"message": "Hello, Ada!"}

Knows: how a whole platform of one's own is started and ended for tests. Does not know: how any part of it works.
Everything is imported when the fixture is first used: this module is loaded in every run of pytest beside which Sandlot is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

if TYPE_CHECKING:
    from sandlot.client import Client, InvokeResult

_START_DEADLINE_S: Final = 120.0
_STOP_DEADLINE_S: Final = 30.0
_KEPT_SETTINGS: Final = ("SANDLOT_NODE", "SANDLOT_SANDBOX")
"""Of this machine; every other setting of whoever runs the tests might lead them to a platform that is not theirs."""


class FunctionFailed(AssertionError):
    """A call did not end well; the message has what the function raised, or the limit, and its logs. `result` has the rest."""

    def __init__(self, result: InvokeResult, logs: str) -> None:
        self.result = result
        self.logs = logs
        error = result.problem.get("error")
        trace = "".join(f"\n{line}" for line in error.get("stackTrace", [])) if isinstance(error, Mapping) else ""
        super().__init__(
            f"{result.outcome}: {result.problem.get('detail')}{trace}" + (f"\nIts logs:\n{logs}" if logs else "")
        )


class Function:
    """A deployed function. Call it like one of your own: `greet(event)` is what it returned."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    def __call__(self, event: Any = None) -> Any:  # noqa: ANN401 - JSON in, JSON out
        """
        Raises:
            FunctionFailed: it did not return; what it did instead is in the message.
        """
        result = self.invoke(event)
        if not result.ok:
            raise FunctionFailed(result, self._client.logs(result.job_id))
        return result.json()

    def invoke(self, event: Any = None) -> InvokeResult:  # noqa: ANN401 - JSON
        """How a call ended, well or not."""
        return self._client.invoke(self.name, event)

    def submit(self, event: Any = None) -> Job:  # noqa: ANN401 - JSON
        """Queue a call and return at once."""
        return Job(self._client, str(self._client.submit(self.name, event)["id"]))


class Job:
    """A call that was queued."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def wait(self) -> dict[str, Any]:
        """Its document, once it has ended: `status`, `outcome`, `result`, `error`, …"""
        return self._client.wait(self.id)

    def logs(self) -> str:
        return self._client.logs(self.id)

    def cancel(self) -> None:
        self._client.cancel(self.id)


class Platform:
    """Valkey, an API and a worker, with data of their own, on ports that are free. `client` speaks to its API with an admin's key."""

    def __init__(self, folder: Path) -> None:
        """`folder` is empty and this platform's alone."""
        self._folder = folder
        self._log = folder / "up.log"

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            RuntimeError: it did not; the message has what it said.
        """
        from sandlot.cli.data_dir import DataDir
        from sandlot.cli.installation import command_line
        from sandlot.cli.up.processes import dies_with
        from sandlot.client import Client

        (self._folder / "functions").mkdir()
        data = DataDir(self._folder / "data")
        words = ["up", "--port", "0", "--data", str(data.path), "--functions", str(self._folder / "functions")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command_line(), *words],
                env=_environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with(os.getpid(), signal.SIGTERM),
            )
        deadline_s = time.monotonic() + _START_DEADLINE_S
        while (running := data.running()) is None or "stops everything" not in self._said():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._end()
                raise RuntimeError(f"no platform for the tests: {self._said()}")
            time.sleep(0.02)
        self.url = running.url
        self.client: Client = Client(running.url, data.key_file.read_text(encoding="utf-8").strip())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._end()

    def deploy(self, path: str | Path, *, name: str | None = None) -> Function:
        """Deploy a file, a folder or a zip, checked as `sandlot deploy` does, and wait for its dependencies.

        Raises:
            SandlotError: it cannot be a function; file and line are named.
        """
        from sandlot.cli.deploy import deploy_path
        from sandlot.cli.progress import wait_until_active

        deployed = wait_until_active(self.client, deploy_path(self.client, Path(path), name=name))
        return Function(self.client, str(deployed["name"]))

    def function(self, name: str) -> Function:
        """One that was deployed before."""
        return Function(self.client, name)

    def set_secret(self, name: str, value: str) -> None:
        self.client.set_secret(name, value)

    def logs(self, call: InvokeResult | Job) -> str:
        """What the function printed in that call."""
        return self.client.logs(call.id if isinstance(call, Job) else call.job_id)

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _end(self) -> None:
        # What still runs belongs to tests that are over: no need to let it finish (the second signal).
        for _ in range(2):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_DEADLINE_S)
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def sandlot() -> Iterator[Platform]:
    """One platform for all tests of a run, started when the first of them asks for it."""
    with tempfile.TemporaryDirectory(prefix="sandlot-testing-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a sandbox may run as another user, who has to reach the unpacked functions below
        with Platform(folder) as platform:
            yield platform


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
    return kept | {name: os.environ[name] for name in _KEPT_SETTINGS if name in os.environ} | {"PYTHONUNBUFFERED": "1"}
