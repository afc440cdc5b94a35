"""Registry: the deployed functions, the version that a name means, and its code.

Records are signed when they are written, and verified when they are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Final, Self, TypeVar

import msgspec
from redis.asyncio import Redis

from sandlot.errors import (
    CallerError,
    FunctionNotFound,
    SandlotError,
    TryAgain,
    UnsafeRecord,
    VersionConflict,
    VersionFailed,
    VersionNotFound,
    VersionPending,
)
from sandlot.functions.bundle import Bundle, digest_of, is_digest, pack, unpack
from sandlot.functions.dependencies import Lock, open_lock, seal_lock
from sandlot.functions.manifest import Manifest
from sandlot.functions.store import VERSIONS_KEPT, DeployReply, FunctionStore
from sandlot.functions.version import (
    ALIAS_NAME,
    Alias,
    DeployResult,
    FunctionDetails,
    FunctionPage,
    PendingVersion,
    Version,
    WeightedAlias,
    build_inputs,
    check_alias,
    parse_alias,
    placement_of,
    sign_version,
    verify_version,
)
from sandlot.models import FUNCTION_NAME, LATEST
from sandlot.redis import keys
from sandlot.redis.invalidation import Invalidation

_SAFETY_TTL_S: Final = 1.0
_CACHE_LIMIT: Final = 20_000
_DEPLOY_TRIES: Final = 20

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Registry:
    """Registry of deployed functions.

    An open registry (`async with`, or `open` and `close`) has its cache invalidated by push;
    without that connection it keeps an entry for one second. Every method raises QueueUnavailable
    when Redis does not reply, and UnsafeRecord for a record that is not signed with our key.
    """

    def __init__(self, redis: Redis, signing_key: bytes, *, versions_kept: int = VERSIONS_KEPT) -> None:
        self._store = FunctionStore(redis)
        self._signing_key = signing_key
        self._versions_kept = versions_kept
        self._resolved: dict[tuple[str, str], tuple[Version | WeightedAlias, float]] = {}
        self._versions: dict[tuple[str, str], Version] = {}
        self._epoch = 0
        self._invalidation = Invalidation(redis, keys.FUNCTIONS_CHANGED, self._invalidate)

    async def open(self) -> None:
        """Start to listen for changes by other processes.

        This returns at once; Redis need not be reachable yet.
        """
        self._invalidation.start()

    async def close(self) -> None:
        """Stop listening. The Redis client stays open: its owner closes it."""
        await self._invalidation.stop()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def deploy(
        self, name: str, bundle: Bundle, manifest: Manifest, *, revision: str = "", owner: str = ""
    ) -> DeployResult:
        """Make this the function's latest version.

        A bundle and manifest that the function already had become the version that they were.

        Args:
            revision: change nothing unless the function is at this revision ("*": at any, but it
                must exist).
            owner: of the key that deploys; builds are shared out fairly between owners.

        Raises:
            CallerError: `name` is not a valid function name.
            VersionConflict: the function is at another revision.
            TryAgain: others deploy the same function at the same time, and each attempt lost the
                race.
        """
        if not FUNCTION_NAME.match(name):
            raise CallerError(
                f"{name[:80]!r} is not a valid function name: use a lowercase letter followed by up to 62 lowercase letters, digits and hyphens"
            )
        packed = await asyncio.to_thread(pack, bundle, manifest)
        digest = await asyncio.to_thread(digest_of, packed)
        number = await self._store.last_number(name) + 1
        lock = await self._lock_for(digest, name, manifest)
        build_at = placement_of(manifest) if manifest.dependencies else ""
        for _ in range(_DEPLOY_TRIES):
            record = self._sign(name, number, digest, manifest)
            reply = await self._store.deploy(
                name, digest, number, record, len(packed), revision, build_at=build_at, lock=lock, owner=owner
            )
            number = reply.number
            if reply.status == b"missing":
                await self._store.upload(digest, packed)
            elif reply.status == b"stale":
                raise _revision_conflict(name)
            elif reply.status == b"ok":
                return await self._deployed(name, reply)
        raise TryAgain(f"{name!r} is being deployed by others at the same time; nothing was changed. Try again")

    def _sign(self, name: str, number: int, digest: str, manifest: Manifest) -> bytes:
        version = Version(
            function=name,
            number=number,
            digest=digest,
            manifest=manifest,
            placement=placement_of(manifest),
            created_ms=time.time_ns() // 1_000_000,
        )
        return sign_version(version, self._signing_key)

    async def _deployed(self, name: str, reply: DeployReply) -> DeployResult:
        if reply.changed:
            await self._store.prune(name, self._versions_kept)
        self._invalidate(name)
        return DeployResult(
            version=verify_version(reply.record, name, self._signing_key),
            created=bool(reply.created),
            changed=bool(reply.changed),
            revision=reply.revision.decode(),
            active=bool(reply.active),
        )

    async def resolve(self, name: str, qualifier: str = LATEST, key: str = "") -> Version:
        """Return the version that a name and a qualifier mean now.

        Args:
            qualifier: `$LATEST`, a number or an alias.
            key: where an alias splits calls between versions, equal keys get the same version;
                without a key, chance decides.

        Raises:
            FunctionNotFound, VersionNotFound: there is none.
            VersionPending, VersionFailed: its dependencies are not resolved yet, or cannot be.
        """
        cached = self._resolved.get((name, qualifier))
        now_s = time.monotonic()
        if cached is not None and now_s < max(self._invalidation.alive_until_s, cached[1] + _SAFETY_TTL_S):
            target = cached[0]
        else:
            epoch, read_at_s = self._epoch, now_s
            target = await self._look_up(name, qualifier)
            if epoch == self._epoch:  # else a push came in between, which may invalidate what was read
                _bounded(self._resolved)[name, qualifier] = target, read_at_s
        return target if isinstance(target, Version) else target.choose(key or secrets.token_hex(8))

    async def version(self, function: str, digest: str) -> Version:
        """Return the version with this digest, verifying its signature.

        Raises:
            VersionNotFound: the function, or that version of it, no longer exists.
            VersionPending, VersionFailed: its dependencies are not resolved yet, or cannot be.
        """
        known = self._versions.get((function, digest))
        if known is not None:
            return known
        number = await self._store.number_of(function, digest)
        record = None if number is None else await self._store.any_record(function, number)
        if record is None and number is not None:
            raise await self._not_ready(function, number)
        if record is None:
            raise VersionNotFound(
                f"{function!r} has no version {digest[:12]}…: it was deleted, or is older than the versions that are kept"
            )
        version = verify_version(record, function, self._signing_key)
        if version.digest != digest:
            raise UnsafeRecord(
                f"the record of version {digest[:12]}… of {function!r} belongs to version {version.digest[:12]}…"
            )
        _bounded(self._versions)[function, digest] = version
        return version

    async def bundle(self, digest: str) -> Bundle:
        """Return the files of a version, verified against its digest.

        Raises:
            VersionNotFound: they are no longer stored.
        """
        if not is_digest(digest):
            raise UnsafeRecord(f"{digest[:80]!r} is not a digest")
        packed = await self._store.download(digest)
        if not packed:
            raise VersionNotFound(f"the code of version {digest[:12]}… is no longer stored; deploy the function again")
        return await asyncio.to_thread(_unpack_verified, packed, digest)

    async def describe(self, name: str) -> FunctionDetails:
        """Return everything about a function.

        Raises:
            FunctionNotFound: no function of that name exists.
        """
        stored = await self._store.function(name) if FUNCTION_NAME.match(name) else None
        if stored is None:
            raise _no_function(name)
        versions = {
            number: verify_version(stored.records[number], name, self._signing_key)
            for number in sorted(stored.records, reverse=True)
        }
        if stored.latest is not None and stored.latest not in versions:
            raise UnsafeRecord(f"{name!r} has no record of its latest version, {stored.latest}")
        return FunctionDetails(
            latest=None if stored.latest is None else versions[stored.latest],
            versions=tuple(versions.values()),
            aliases={alias: parse_alias(text, name) for alias, text in sorted(stored.aliases.items())},
            revision=stored.revision,
            pending=tuple(
                PendingVersion(
                    version=verify_version(record, name, self._signing_key),
                    state="pending" if reason is None else "failed",
                    reason=reason or "",
                )
                for _, (record, reason) in sorted(stored.pending.items(), reverse=True)
            ),
        )

    async def pending(self, name: str, number: int) -> PendingVersion | None:
        """Return a version that cannot be called, yet or ever; None for any other."""
        found = await self._store.pending(name, number)
        if found is None:
            return None
        return PendingVersion(
            version=verify_version(found.record, name, self._signing_key),
            state="pending" if found.reason is None else "failed",
            reason=found.reason or "",
            progress=found.progress,
        )

    async def lock(self, version: Version) -> Lock:
        """Return the lock that the version's dependencies were resolved to.

        Raises:
            UnsafeRecord: there is none that is signed with our key.
        """
        return open_lock(await self._store.lock(version.digest), version.digest, self._signing_key)

    async def _lock_for(self, digest: str, name: str, manifest: Manifest) -> bytes:
        """Return the lock of the latest version, signed for this digest, if it fits; else nothing.

        It fits if both versions have the same dependencies. A change of the code alone therefore
        waits for no index, and keeps the packages that it was tested with.
        """
        number = await self._store.latest_number(name) if manifest.dependencies else None
        record = None if number is None else await self._store.record(name, number)
        if record is None:
            return b""
        try:
            before = verify_version(record, name, self._signing_key)
            lock = await self.lock(before) if build_inputs(before.manifest) == build_inputs(manifest) else None
        except UnsafeRecord:  # must not fail here: deploying again is the remedy
            return b""
        return b"" if lock is None else seal_lock(lock, digest, self._signing_key)

    async def move_alias(self, name: str, alias: str, target: Alias, *, revision: str = "") -> str:
        """Point an alias, or `$LATEST`, at other versions; return the function's new revision.

        Raises:
            CallerError: the alias is not valid.
            FunctionNotFound, VersionNotFound: the function, or a version that the alias would mean,
                does not exist.
            VersionConflict: the function is at another revision than the one given.
        """
        check_alias(alias, target)
        return await self._set_alias(name, alias, msgspec.json.encode(target), revision, target.numbers())

    async def remove_alias(self, name: str, alias: str, *, revision: str = "") -> str:
        """Remove an alias; return the function's new revision.

        Raises:
            CallerError: the alias is `$LATEST`.
            FunctionNotFound, VersionNotFound: the function or the alias does not exist.
            VersionConflict: the function is at another revision than the one given.
        """
        if alias == LATEST:
            raise CallerError(f"{LATEST} cannot be removed; delete the function, or point {LATEST} at another version")
        return await self._set_alias(name, alias, b"", revision, ())

    async def _set_alias(self, name: str, alias: str, text: bytes, revision: str, numbers: Sequence[int]) -> str:
        reply = await self._store.set_alias(name, alias, text, revision, numbers)
        self._invalidate(name)
        match reply[0]:
            case b"ok":
                return reply[1].decode()
            case b"stale":
                raise _revision_conflict(name)
            case b"no_version":
                raise VersionNotFound(f"{name!r} has no version {reply[1].decode()}")
            case b"no_alias":
                raise VersionNotFound(f"{name!r} has no alias {alias[:80]!r}")
            case _:
                raise _no_function(name)

    async def list(self, limit: int = 100, cursor: str = "") -> FunctionPage:
        """Return up to `limit` functions whose names come after `cursor`."""
        names = await self._store.names(cursor, limit + 1)
        functions: list[Version | PendingVersion] = []
        for name in names[:limit]:
            # Deleted, or deleted and deployed again, after the names were read: leave it out.
            with contextlib.suppress(FunctionNotFound, VersionPending, VersionFailed):
                functions.append(await self._listed_version(name))
        return FunctionPage(functions=tuple(functions), next=names[limit - 1] if len(names) > limit else None)

    async def _listed_version(self, name: str) -> Version | PendingVersion:
        try:
            return await self.resolve(name)
        except (VersionPending, VersionFailed):
            number = await self._store.wanted_number(name)
            pending = None if number is None else await self.pending(name, number)
            return pending if pending is not None else await self.resolve(name)  # its build has just ended

    async def delete(self, name: str, *, revision: str = "") -> None:
        """Delete a function with all its versions.

        Raises:
            FunctionNotFound: no function of that name exists.
            VersionConflict: it is at another revision than the one given.
        """
        reply = await self._store.undeploy(name, revision)
        self._invalidate(name)
        if reply < 0:
            raise _revision_conflict(name)
        if not reply:
            raise _no_function(name)

    async def _look_up(self, name: str, qualifier: str) -> Version | WeightedAlias:
        latest = await self._store.latest_number(name) if FUNCTION_NAME.match(name) else None
        if latest is None:
            wanted = await self._store.wanted_number(name) if FUNCTION_NAME.match(name) else None
            raise _no_function(name) if wanted is None else await self._not_ready(name, wanted)
        if not ALIAS_NAME.match(qualifier):
            return await self._read_version(
                name, latest if qualifier == LATEST else _parse_number(qualifier), qualifier, latest
            )
        text = await self._store.alias(name, qualifier)
        if text is None:
            raise VersionNotFound(f"{name!r} has no alias {qualifier!r}; the latest is {latest}")
        alias = parse_alias(text, name)
        versions = {number: await self._read_version(name, number, qualifier, latest) for number in alias.numbers()}
        return WeightedAlias(qualifier, alias, versions) if alias.weights else versions[alias.version]

    async def _read_version(self, name: str, number: int, qualifier: str, latest: int) -> Version:
        record = await self._store.record(name, number)
        if record is None and number:
            raise await self._not_ready(name, number, f"; the latest is {latest}")
        if record is None:
            raise VersionNotFound(f"{name!r} has no version {qualifier[:80]!r}; the latest is {latest}")
        version = verify_version(record, name, self._signing_key)
        if version.number != number:
            raise UnsafeRecord(f"the record of version {number} of {name!r} belongs to version {version.number}")
        return version

    async def _not_ready(self, name: str, number: int, hint: str = "") -> SandlotError:
        """Return the error that says why a version that is not active cannot be used."""
        pending = await self.pending(name, number)
        if pending is None:
            return VersionNotFound(f"{name!r} has no version {number}{hint}")
        if pending.state == "failed":
            return VersionFailed(f"version {number} of {name!r} cannot be called: {pending.reason}")
        step = pending.progress or "waiting for a worker"
        return VersionPending(
            f"version {number} of {name!r} is not ready: its dependencies are being resolved ({step})"
        )

    def _invalidate(self, name: str | None) -> None:
        """Drop the cached entries of one function, or of all (`None`).

        The cache of versions by digest stays: a digest always means the same version.
        """
        self._epoch += 1
        for key in [key for key in self._resolved if name is None or key[0] == name]:
            del self._resolved[key]


def _parse_number(qualifier: str) -> int:
    """Return the version number that the text is, or 0, which no version has."""
    return int(qualifier) if qualifier.isascii() and qualifier.isdigit() and len(qualifier) < 10 else 0


def _no_function(name: str) -> FunctionNotFound:
    return FunctionNotFound(f"no function {name[:80]!r} is deployed")


def _revision_conflict(name: str) -> VersionConflict:
    return VersionConflict(
        f"{name[:80]!r} has changed since you read it (If-Match does not match); nothing was changed. Read it again, then decide"
    )


def _unpack_verified(packed: bytes, digest: str) -> Bundle:
    if digest_of(packed) != digest:
        raise UnsafeRecord(
            f"the stored code of version {digest[:12]}… has a different digest: it was damaged or replaced"
        )
    return unpack(packed)[0]


def _bounded(cache: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """Empty the cache if it is full. Only an attack can fill it, so no better policy is needed."""
    if len(cache) >= _CACHE_LIMIT:
        cache.clear()
    return cache
