"""Pytest plugin with the fixture `sandlot`, a running platform for tests.

pytest finds the fixture without configuration wherever Sandlot is installed:

    def test_greets_by_name(sandlot):
        greet = sandlot.deploy("functions/greet.py")
        assert greet({"name": "Ada"}) == {"message": "Hello, Ada!"}

Imports happen when the fixture is first used, because every run of pytest loads this module.
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
"""Settings about this machine.

All others are removed: they could lead the tests to a platform that is not theirs.
"""


class FunctionFailed(AssertionError):
    """Failure of a call.

    The message has the function's exception, or the limit that it exceeded, and its logs; `result`
    has the rest.
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
    """Deployed function. Call it like a Python function: `greet(event)` returns its result."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client

    def __call__(self, event: Any = None) -> Any:  # noqa: ANN401 - JSON in, JSON out
        """Call the function and return its result.

        Raises:
            FunctionFailed: the function did not return; the message says how it ended.
        """
        result = self.invoke(event)
        if not result.ok:
            raise FunctionFailed(result, self._client.logs(result.job_id))
        return result.json()

    def invoke(self, event: Any = None) -> InvokeResult:  # noqa: ANN401 - JSON
        """Call the function and return how the call ended, well or not."""
        return self._client.invoke(self.name, event)

    def submit(self, event: Any = None) -> Job:  # noqa: ANN401 - JSON
        """Queue a call and return at once."""
        return Job(self._client, str(self._client.submit(self.name, event)["id"]))


class Job:
    """Queued call."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def wait(self) -> dict[str, Any]:
        """Wait until the job has ended and return its document.

        It has `status`, `outcome`, `result`, `error`, …
        """
        return self._client.wait(self.id)

    def logs(self) -> str:
        return self._client.logs(self.id)

    def cancel(self) -> None:
        self._client.cancel(self.id)


class Platform:
    """Valkey, an API and a worker with their own data, on free ports.

    `client` calls the API with an admin key.
    """

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which must be empty and belong to this platform alone."""
        self._folder = folder
        self._log = folder / "up.log"

    def __enter__(self) -> Self:
        """Start the platform.

        Raises:
            RuntimeError: it did not start; the message has its output.
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
        """Deploy a file, folder or zip and wait for its dependencies.

        The checks are those of `sandlot deploy`.

        Raises:
            SandlotError: it is not a valid function; the message names file and line.
        """
        from sandlot.cli.deploy import deploy_path
        from sandlot.cli.progress import wait_until_active

        deployed = wait_until_active(self.client, deploy_path(self.client, Path(path), name=name))
        return Function(self.client, str(deployed["name"]))

    def function(self, name: str) -> Function:
        """Return a function that was deployed before."""
        return Function(self.client, name)

    def set_secret(self, name: str, value: str) -> None:
        self.client.set_secret(name, value)

    def logs(self, call: InvokeResult | Job) -> str:
        """Return what the function printed during that call."""
        return self.client.logs(call.id if isinstance(call, Job) else call.job_id)

    def _output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _stop(self) -> None:
        # The second signal stops running calls at once: they belong to tests that are over.
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
    """Provide one platform for all tests of a run, started when the first test uses it."""
    with tempfile.TemporaryDirectory(prefix="sandlot-testing-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a sandbox may run as another user, which must reach the unpacked functions below
        with Platform(folder) as platform:
            yield platform


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
    return kept | {name: os.environ[name] for name in _KEPT_SETTINGS if name in os.environ} | {"PYTHONUNBUFFERED": "1"}
