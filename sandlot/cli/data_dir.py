"""The data folder: keys, the embedded Valkey's files, caches, logs, and who is using it now.

Knows: what is where in `.sandlot/`, with which permissions. Does not know: what Redis, the API or a worker do with it.
"""

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


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What `sandlot up` says about itself to other commands on this machine."""

    pid: int
    url: str
    redis_url: str


class DataDir:
    """`path` is absolute; nothing is made before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.signing_key_file = self.path / "signing.key"
        self.key_file = self.path / "key"
        self.valkey = self.path / "valkey"
        self.logs = self.path / "logs"
        self._running_file = self.path / "running.json"

    @classmethod
    def nearest(cls) -> DataDir:
        """The one of this folder or of the closest folder above it; this folder's, if there is none yet."""
        here = Path.cwd()
        found = next(
            (folder / NAME for folder in (here, *here.parents) if (folder / NAME / "key").is_file()), here / NAME
        )
        return cls(found)

    def create(self) -> None:
        """Make the folder and, the first time, its keys.

        Raises:
            InvalidSettings: it cannot be made or written.
        """
        try:
            for folder, mode in ((self.path, 0o711), (self.valkey, 0o700), (self.logs, 0o700)):
                folder.mkdir(parents=True, exist_ok=True)
                # 711, not 700: a sandbox may run as another user and has to reach the unpacked functions below it.
                folder.chmod(mode)
            # Here, because it brings redis along, which takes longer to import than most commands take to run.
            from sandlot.api_keys import new_token

            _write_once(self.path / ".gitignore", lambda: "# Keys and data: never to be committed.\n*\n", 0o644)
            _write_once(self.signing_key_file, lambda: secrets.token_hex(32) + "\n", 0o600)
            _write_once(self.key_file, lambda: new_token() + "\n", 0o600)
        except OSError as error:
            raise InvalidSettings(
                f"cannot use {self.path} as the data folder: {error.strerror}. Choose another with --data."
            ) from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other `sandlot up` off this folder; the kernel lets go of it whatever ends us.

        Raises:
            InvalidSettings: another one has it.
        """
        descriptor = os.open(self.path / "up.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                other = self.running()
                who = f" (process {other.pid}, {other.url})" if other else ""
                raise InvalidSettings(
                    f"another sandlot up{who} uses {self.path}. Stop it, or give this one a folder of its own: --data DIR"
                ) from error
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def announced(self, running: Running) -> Iterator[None]:
        """Let other commands find what runs, for as long as it does."""
        beside = self._running_file.with_suffix(".new")
        beside.unlink(missing_ok=True)
        # For its owner alone: the URL of Redis may hold a password.
        _write_once(beside, lambda: msgspec.json.encode(running).decode(), 0o600)
        beside.rename(self._running_file)
        try:
            yield
        finally:
            self._running_file.unlink(missing_ok=True)

    def running(self) -> Running | None:
        """What `sandlot up` announced, if it did and still runs."""
        try:
            running = msgspec.json.decode(self._running_file.read_bytes(), type=Running)
            os.kill(running.pid, 0)
        except (OSError, msgspec.MsgspecError):
            return None
        return running


def _write_once(path: Path, content: Callable[[], str], mode: int) -> None:
    """Write a file that is not there yet, never readable by more than `mode` says, not even for a moment."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content())
