"""Pytest plugin: the fixture `sandlot`, a whole platform for the tests of your functions.

    def test_greets_by_name(sandlot):
        greet = sandlot.deploy("functions/greet.py")
        assert greet({"name": "Ada"}) == {"message": "Hello, Ada!"}

Pytest finds the fixture wherever Sandlot is installed. It therefore loads this module in every
run, so everything else is imported when the fixture is first used.
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
"""Settings of this machine. All others are ignored: they might lead the tests to another
platform."""


class FunctionFailed(AssertionError):
    """A call of a function failed.

    The message has what the function raised, or the limit that ended it, and its logs. `result` has
    the rest.
    """

    def __init__(self, result: InvokeResult, logs: str) -> None:
        self.result = result
        self.logs = logs
        error = result.problem.get("error")
        trace = "".join(f"\n{line}" for line in error.get("stackTrace", [])) if isinstance(error, Mapping) else ""
        super().__init__(
            f"{result.outcome}: {result.problem.get('detail')}{trace}" + (f"\nIts logs:\n{logs}" if logs else "")
        )


class Function:
    """A deployed function.

    Call it like a local one: `greet(event)` returns what the function returned.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    def __call__(self, event: Any = None) -> Any:  # noqa: ANN401 - JSON in, JSON out
        """Call the function and return its result, decoded from JSON.

        Args:
            event: any value that can be encoded as JSON.

        Raises:
            FunctionFailed: the function raised, or a limit ended it.
        """
        result = self.invoke(event)
        if not result.ok:
            raise FunctionFailed(result, self._client.logs(result.job_id))
        return result.json()

    def invoke(self, event: Any = None) -> InvokeResult:  # noqa: ANN401 - JSON
        """Call the function and return how the call ended, also if it failed."""
        return self._client.invoke(self.name, event)

    def submit(self, event: Any = None) -> Job:  # noqa: ANN401 - JSON
        """Queue a call and return its job at once."""
        return Job(self._client, str(self._client.submit(self.name, event)["id"]))


class Job:
    """A queued call."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def wait(self) -> dict[str, Any]:
        """Wait until the job has ended and return its document.

        It has `status`, `outcome`, `result`, `error` and the other members of `docs/api.md`.
        """
        return self._client.wait(self.id)

    def logs(self) -> str:
        """Return what the function has printed so far."""
        return self._client.logs(self.id)

    def cancel(self) -> None:
        """Cancel the job."""
        self._client.cancel(self.id)


class Platform:
    """A platform for tests: Valkey, an API on a free port, and a worker, with data of their own.

    Use it as a context manager. Inside, `url` is the API's URL and `client` is a client with an
    admin's key.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare a platform that keeps its data in `folder`, which must be empty."""
        self._folder = folder
        self._log = folder / "up.log"

    def __enter__(self) -> Self:
        """Start the platform and wait until it is ready.

        Raises:
            RuntimeError: it did not start; the message has its output.
        """
        from sandlot.cli.data_dir import DataDir
        from sandlot.cli.installation import command_line
        from sandlot.cli.up.processes import parent_death_hook
        from sandlot.client import Client

        (self._folder / "functions").mkdir()
        data = DataDir(self._folder / "data")
        arguments = ["up", "--port", "0", "--data", str(data.path), "--functions", str(self._folder / "functions")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command_line(), *arguments],
                env=_environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=parent_death_hook(os.getpid(), signal.SIGTERM),
            )
        deadline_s = time.monotonic() + _START_DEADLINE_S
        while (running := data.running()) is None or "stops everything" not in self._output():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._stop()
                raise RuntimeError(f"the platform for the tests did not start: {self._output()}")
            time.sleep(0.02)
        self.url = running.url
        self.client: Client = Client(running.url, data.key_file.read_text(encoding="utf-8").strip())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._stop()

    def deploy(self, path: str | Path, *, name: str | None = None) -> Function:
        """Deploy a file, a folder or a zip as `sandlot deploy` does, and wait for its dependencies.

        Args:
            name: the function's name; by default the file's or folder's.

        Raises:
            SandlotError: it is not a valid function, or its dependencies cannot be installed.
        """
        from sandlot.cli.deploy import deploy_path, wait_until_active

        deployed = wait_until_active(self.client, deploy_path(self.client, Path(path), name=name))
        return Function(self.client, str(deployed["name"]))

    def function(self, name: str) -> Function:
        """Return a function that is already deployed."""
        return Function(self.client, name)

    def set_secret(self, name: str, value: str) -> None:
        """Set a secret for all functions that name it."""
        self.client.set_secret(name, value)

    def logs(self, call: InvokeResult | Job) -> str:
        """Return what the function printed in this call."""
        return self.client.logs(call.id if isinstance(call, Job) else call.job_id)

    def _output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _stop(self) -> None:
        # The second signal stops it without waiting for running jobs: they belong to tests that are
        # over.
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
    """One platform for all tests of a run, started when the first of them uses the fixture."""
    with tempfile.TemporaryDirectory(prefix="sandlot-testing-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a sandbox may run as another user and must reach the unpacked functions below
        with Platform(folder) as platform:
            yield platform


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
    return kept | {name: os.environ[name] for name in _KEPT_SETTINGS if name in os.environ} | {"PYTHONUNBUFFERED": "1"}
