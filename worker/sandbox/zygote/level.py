"""What the two ways to wall a sandbox in have to do for the zygote. `level_strict` and `level_restricted` do it."""

from __future__ import annotations

from typing import Protocol

from .carried import Carried


class Level(Protocol):
    def open(self) -> None:
        """Build what all sandboxes share.

        Raises:
            OSError: this machine does not permit it; the message is for people.
        """

    def settle(self, *, counted: bool) -> None:
        """The last word before the first sandbox: what was loaded until now, all of them share.

        Args:
            counted: cgroups count a sandbox's memory as a whole.
        """

    def fork(self, carried: Carried, ini: int) -> int:
        """A new process for the sandbox, a child of ours, that waits at `ini` for the order to go; returns its pid, and here only.

        Raises:
            OSError: there are no processes or namespaces to be had.
            MouldGone: the process that it would be cast from has ended.
        """

    def admit(self, carried: Carried) -> None:
        """Called here, once it exists and before it is told to go on."""

    def hand_over(self, folders: list[str]) -> tuple[list[str], tuple[int, ...]]:
        """The paths of bundle and packages as seen inside, and descriptors to send along, which are the caller's to close."""

    def kill(self, carried: Carried) -> None:
        """Kill everything in it. Only for a child not yet reaped, so that its number is still its own."""

    def bury(self, carried: Carried, status: int) -> int | None:
        """Its first process has just been reaped with this status: see to the rest; returns how the runtime ended, if that is known."""

    def note_other(self, pid: int) -> None:
        """A child that is no sandbox has been reaped.

        Raises:
            MouldGone: it was the process that sandboxes are cast from.
        """

    def close(self) -> None:
        """Remove what `open` made outside this process."""
