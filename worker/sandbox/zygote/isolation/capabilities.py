"""Capabilities and securebits: give up every privilege, for good (capabilities(7))."""

from __future__ import annotations

from typing import Final

from .. import syscalls

CAP_SETPCAP: Final = 8
LAST_CAPABILITY: Final = 63  # the kernel answers EINVAL beyond its own last one, which ends the loop

# NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off and NO_CAP_AMBIENT_RAISE, each with its lock
# (capabilities(7), "The securebits flags: establishing a capabilities-only environment"): a process
# that becomes uid 0 by whatever bug gains no capability from it.
SECUREBITS: Final = 0b11_10_11_11


# Process: runtime, in lock_down; init, once the bundle is mounted. capset(2) with empty sets needs
# no capability, and nothing can be added to a permitted set again. The ambient set is a subset of
# the permitted and inheritable ones, so emptying these empties it as well; prctl(2) says so
# explicitly.
def drop_all() -> None:
    """Empty every capability set, and set no-new-privs so that no executed file can refill one.

    Raises:
        OSError: a set could not be emptied.
        PermissionError: the kernel still reports a capability, or no no-new-privs.
    """
    lock()
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if any(syscalls.capget()) or syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS) != 1:
        raise PermissionError("capabilities are left after dropping all of them")


# Process: init, before it forks the runtime, which inherits both; the only process (restricted),
# before setresuid(2), which may take CAP_SETPCAP away. PR_SET_SECUREBITS and PR_CAPBSET_DROP need
# CAP_SETPCAP in the caller's user namespace (prctl(2)). A zygote of an ordinary user does not have
# it at the restricted level; there no-new-privs alone keeps a process from gaining capabilities.
def lock() -> None:
    """Give up the bounding set and lock the securebits, if this process may."""
    if syscalls.capget()[0] >> CAP_SETPCAP & 1 and syscalls.prctl(syscalls.PR_GET_SECUREBITS) != SECUREBITS:
        _drop_bounding_set()
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, SECUREBITS)


def _drop_bounding_set() -> None:
    for capability in range(LAST_CAPABILITY + 1):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == 22:  # EINVAL: beyond the last capability that this kernel knows
                return
            raise
