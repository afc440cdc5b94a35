"""Builds of dependencies: claimed by a worker, which records a lock or a failure.

Redis only says *which* version to build. The version's record is signed and says what its
dependencies are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from redis.asyncio import Redis

from sandlot.errors import UnsafeRecord, VersionNotFound
from sandlot.functions.dependencies import Lock, seal_lock
from sandlot.functions.version import Version, verify_version
from sandlot.redis import keys
from sandlot.redis.connection import answering
from sandlot.redis.lua import function_script

LEASE_MS: Final = 6_000
"""How long after the death of its worker another worker can claim a build."""
ATTEMPTS_LIMIT: Final = 3
"""Dependencies that bring their worker down must not do so for ever."""
REASON_LIMIT: Final = 8000
_PROGRESS_LIMIT: Final = 200


class Build(NamedTuple):
    """A worker's right to one build; `attempt` is its fencing token."""

    digest: str
    attempt: int
    placement: str
    function: str
    number: int
    owner: str
    """Owner of the API key that deployed the version, as the API recorded it: for fairness only."""


class BuildQueue:
    """Queue of builds in Redis. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        self._signing_key = signing_key
        self._claim_script = redis.register_script(function_script("build_claim"))
        self._heartbeat_script = redis.register_script(function_script("build_heartbeat"))
        self._finish_script = redis.register_script(function_script("revision", "build_finish"))

    async def claim(
        self,
        placements: Sequence[str],
        patience_ms: Sequence[int],
        *,
        source_builds: bool | None = None,
        busy_owners: Iterable[str] = (),
    ) -> Build | None:
        """Claim the longest waiting build that no other worker has; return None if there is none.

        The claim is a lease of `LEASE_MS`.

        Args:
            patience_ms: for each placement, how long a build must have waited before this worker
                claims it.
            source_builds: claim only builds that may run code of packages, or only others; None for
                any.
            busy_owners: owners whose builds are left out.
        """
        lane = "" if source_builds is None else str(int(source_builds))
        async with answering():
            found = await self._claim_script(
                keys=[keys.BUILDS + placement for placement in placements],
                args=[LEASE_MS, keys.BUILD, keys.FUNCTION, *patience_ms, lane, *busy_owners],
            )
        if not found:
            return None
        digest, attempt, index, function, number, owner = found
        placement = placements[int(index) - 1]
        return Build(digest.decode(), int(attempt), placement, function.decode(), int(number), owner.decode())

    async def version(self, build: Build) -> Version:
        """Return the version to build for; its record is signed.

        Raises:
            VersionNotFound: the version was deleted or became active in the meantime.
            UnsafeRecord: the record is not signed with our key, or is another version's.
        """
        async with answering():
            record = cast("bytes | None", await self._redis.hget(keys.FUNCTION + build.function, f"p{build.number}"))
        if record is None:
            raise VersionNotFound(f"version {build.number} of {build.function!r} no longer waits for a build")
        version = verify_version(record, build.function, self._signing_key)
        if version.digest != build.digest:
            raise UnsafeRecord(
                f"version {build.number} of {build.function!r} is not the version that this build is for"
            )
        return version

    async def heartbeat(self, build: Build, progress: str) -> bool:
        """Renew the lease. Return False if it was lost: the result of this build will not count."""
        async with answering():
            reply = await self._heartbeat_script(
                keys=[keys.BUILDS + build.placement, keys.BUILD + build.digest],
                args=[build.digest, build.attempt, LEASE_MS, progress[:_PROGRESS_LIMIT]],
            )
        return bool(reply)

    async def succeed(self, build: Build, lock: Lock) -> bool:
        """Activate every version that waits for this build; return False if the lease was lost."""
        return await self._finish(build, seal_lock(lock, build.digest, self._signing_key), "")

    async def fail(self, build: Build, reason: str) -> bool:
        """Record why the versions cannot be activated; return False if the lease was lost."""
        return await self._finish(build, b"", reason[:REASON_LIMIT])

    async def _finish(self, build: Build, sealed: bytes, reason: str) -> bool:
        async with answering():
            reply = await self._finish_script(
                keys=[keys.BUILDS + build.placement, keys.BUILD + build.digest, keys.LOCK + build.digest],
                args=[build.digest, build.attempt, sealed, reason, keys.FUNCTION, keys.FUNCTIONS_CHANGED],
            )
        return bool(reply)
