"""The data folder `.sandlot/`: keys, the embedded Valkey's files, caches, logs, `running.json`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from sandlot.errors import InvalidSettings

NAME = ".sandlot"


class RunningPlatform(msgspec.Struct, frozen=True, kw_only=True):
    """Process id and URLs of a `sandlot up`, for other commands on this machine."""

    pid: int
    url: str
    redis_url: str


class DataDir:
    """The paths in a data folder. `path` is absolute; nothing is created before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.signing_key_file = self.path / "signing.key"
        self.key_file = self.path / "key"
        self.valkey = self.path / "valkey"
        self.logs = self.path / "logs"
        self._running_file = self.path / "running.json"

    @classmethod
    def nearest(cls) -> DataDir:
        """Return the data folder here or in the closest folder above; without one, the one here."""
        here = Path.cwd()
        found = next(
            (folder / NAME for folder in (here, *here.parents) if (folder / NAME / "key").is_file()), here / NAME
        )
        return cls(found)

    def create(self) -> None:
        """Create the folder and, the first time, its keys.

        Raises:
            InvalidSettings: the folder cannot be created or written.
        """
        try:
            # 711, not 700: a sandbox may run as another user and must reach the unpacked functions
            # below.
            for folder, mode in ((self.path, 0o711), (self.valkey, 0o700), (self.logs, 0o700)):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(mode)
            # Imported late: it imports redis, which takes longer than most commands take to run.
            from sandlot.api_keys import new_token

            _write_once(self.path / ".gitignore", lambda: "# Keys and data: never commit these.\n*\n", 0o644)
            _write_once(self.signing_key_file, lambda: secrets.token_hex(32) + "\n", 0o600)
            _write_once(self.key_file, lambda: new_token() + "\n", 0o600)
        except OSError as error:
            raise InvalidSettings(
                f"cannot use {self.path} as the data folder: {error.strerror}. Choose another with --data."
            ) from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against every other `sandlot up`.

        The kernel releases the lock however this process ends.

        Raises:
            InvalidSettings: another `sandlot up` holds the lock.
        """
        descriptor = os.open(self.path / "up.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                other = self.running()
                holder = f" (process {other.pid}, {other.url})" if other else ""
                raise InvalidSettings(
                    f"another sandlot up{holder} uses {self.path}. Stop it, or give this one its own folder: --data DIR"
                ) from error
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def announced(self, running: RunningPlatform) -> Iterator[None]:
        """Let other commands find the running platform inside this context."""
        beside = self._running_file.with_suffix(".new")
        beside.unlink(missing_ok=True)
        # Readable by its owner alone: the URL of Redis may hold a password.
        _write_once(beside, lambda: msgspec.json.encode(running).decode(), 0o600)
        beside.rename(self._running_file)
        try:
            yield
        finally:
            self._running_file.unlink(missing_ok=True)

    def running(self) -> RunningPlatform | None:
        """Return the platform that was announced, if its process still exists."""
        try:
            running = msgspec.json.decode(self._running_file.read_bytes(), type=RunningPlatform)
            os.kill(running.pid, 0)
        except (OSError, msgspec.MsgspecError):
            return None
        return running


def _write_once(path: Path, content: Callable[[], str], mode: int) -> None:
    """Write a file unless it exists.

    It is created with `mode`, so it is never more readable than that.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content())
