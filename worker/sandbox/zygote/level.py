"""What the two ways to wall a sandbox in have to do for the zygote. `level_strict` and `level_restricted` do it."""

from __future__ import annotations

from typing import Protocol

from .carried import Carried
from .seccomp import FilterChoice


class Level(Protocol):
    def open(self) -> None:
        """Build what all sandboxes share.

        Raises:
            OSError: this machine does not permit it; the message is for people.
        """

    def filter_choice(self, *, network: bool, shared_memory: bool) -> FilterChoice:
        """The filter this level closes the door with."""

    def fork(self, carried: Carried) -> tuple[int, int]:
        """A new process for the sandbox: (0, -1) in it, (pid, pidfd) here."""

    def run(self, carried: Carried, inside: tuple[int, int, int, int], program: bytes) -> None:
        """Called in the new process; never returns."""

    def admit(self, carried: Carried) -> None:
        """Called here, once it exists and before it is told to go on."""

    def hand_over(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        """The paths of bundle and packages as seen inside, and descriptors to send along, which are the caller's to close."""

    def kill(self, carried: Carried) -> None:
        """Kill everything in it. Only for a child not yet reaped, so that its number is still its own."""

    def bury(self, carried: Carried, status: int) -> int | None:
        """Its first process has just been reaped with this status: see to the rest; returns how the runtime ended, if that is known."""

    def close(self) -> None:
        """Remove what `open` made outside this process."""
