"""Give up every privilege, for good.

Knows: capability sets, securebits, no-new-privs. Does not know: who calls it.
"""

from __future__ import annotations

from typing import Final

from .. import syscalls

CAP_SETPCAP: Final = 8
LAST_CAPABILITY: Final = 63  # the kernel answers EINVAL beyond its own last one, which ends the loop

# NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off and NO_CAP_AMBIENT_RAISE, each locked (capabilities(7), "The securebits flags"):
# a process that becomes uid 0 by whatever bug gains no capability from it.
SECUREBITS: Final = 0b11_10_11_11


def drop_all() -> None:
    """No capability in any set, none to be had from an executed file, none from uid 0.

    Raises:
        OSError: a set could not be emptied.
        PermissionError: something is left after all.
    """
    lock()
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if any(syscalls.capget()) or syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS) != 1:
        raise PermissionError("capabilities are left after dropping all of them")


def lock() -> None:
    """Whoever may do so gives up regaining capabilities; to be called before a change of uid, which may take the permission away."""
    if syscalls.capget()[0] >> CAP_SETPCAP & 1 and syscalls.prctl(syscalls.PR_GET_SECUREBITS) != SECUREBITS:
        _drop_bounding_set()
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, SECUREBITS)


def _drop_bounding_set() -> None:
    for capability in range(LAST_CAPABILITY + 1):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == 22:  # EINVAL: beyond the last capability this kernel knows
                return
            raise
