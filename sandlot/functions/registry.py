"""Which functions are deployed, which version a name means, and the code of each.

Knows: how a version is recorded, signed, verified and cached. Does not know: keys, jobs, HTTP, files on disk.
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
from sandlot.functions.store import VERSIONS_KEPT, FunctionStore
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
    """Open it (`async with`, or `open` and `close`) to have what it caches invalidated by push; unopened, it forgets after a second.

    Every method raises QueueUnavailable when Redis does not answer, and UnsafeRecord for a record that is not signed with our key.
    """

    def __init__(self, redis: Redis, signing_key: bytes, *, versions_kept: int = VERSIONS_KEPT) -> None:
        self._store = FunctionStore(redis)
        self._signing_key = signing_key
        self._versions_kept = versions_kept
        self._resolved: dict[tuple[str, str], tuple[Version | WeightedAlias, float]] = {}
        self._versions: dict[tuple[str, str], Version] = {}
        self._epoch = 0
        self._push = Invalidation(redis, keys.FUNCTIONS_CHANGED, self._forget)

    async def open(self) -> None:
        """Start listening for deploys made elsewhere; returns at once, Redis need not be there yet."""
        self._push.start()

    async def close(self) -> None:
        """Stop listening. The Redis client stays open: whoever made it closes it."""
        await self._push.stop()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def deploy(self, name: str, bundle: Bundle, manifest: Manifest, *, revision: str = "") -> DeployResult:
        """Make this the function's latest version; a bundle and manifest it has already had become the version they were.

        Args:
            revision: change nothing unless the function is at this revision ("*": at any, but it has to exist).

        Raises:
            CallerError: `name` is no name for a function.
            VersionConflict: the function is at another revision.
            TryAgain: others deploy the same function faster than we can.
        """
        if not FUNCTION_NAME.match(name):
            raise CallerError(
                f"{name[:80]!r} is no name for a function: write a letter, then up to 62 letters, digits and hyphens"
            )
        packed = await asyncio.to_thread(pack, bundle, manifest)
        digest = await asyncio.to_thread(digest_of, packed)
        number = await self._store.last_number(name) + 1
        lock = await self._lock_for(digest, name, manifest)
        for _ in range(_DEPLOY_TRIES):
            version = Version(
                function=name,
                number=number,
                digest=digest,
                manifest=manifest,
                placement=placement_of(manifest),
                created_ms=time.time_ns() // 1_000_000,
            )
            answer = await self._store.deploy(
                name,
                digest,
                number,
                sign_version(version, self._signing_key),
                len(packed),
                revision,
                build_at=version.placement if manifest.dependencies else "",
                lock=lock,
            )
            number = answer.number
            if answer.status == b"missing":
                await self._store.upload(digest, packed)
            elif answer.status == b"stale":
                raise _changed_meanwhile(name)
            elif answer.status == b"ok":
                if answer.changed:
                    await self._store.prune(name, self._versions_kept)
                self._forget(name)
                recorded = verify_version(answer.record, name, self._signing_key)
                return DeployResult(
                    version=recorded,
                    created=bool(answer.created),
                    changed=bool(answer.changed),
                    revision=answer.revision.decode(),
                    active=bool(answer.active),
                )
        raise TryAgain(f"{name!r} is being deployed by many others at the same time; nothing was changed")

    async def resolve(self, name: str, qualifier: str = LATEST, key: str = "") -> Version:
        """The version that a name and a qualifier (`$LATEST`, a number or an alias) mean now.

        Args:
            key: where an alias shares calls between versions, the same key always gets the same one; without, it is left to chance.

        Raises:
            FunctionNotFound, VersionNotFound: there is none.
        """
        cached = self._resolved.get((name, qualifier))
        if cached is not None and (self._push.alive or time.monotonic() - cached[1] < _SAFETY_TTL_S):
            meaning = cached[0]
        else:
            epoch, asked_s = self._epoch, time.monotonic()
            meaning = await self._read(name, qualifier)
            if epoch == self._epoch:  # else a push came in between, and what we read may be what it invalidated
                _bounded(self._resolved)[name, qualifier] = meaning, asked_s
        return meaning if isinstance(meaning, Version) else meaning.choose(key or secrets.token_hex(8))

    async def version(self, function: str, digest: str) -> Version:
        """The version with this digest, for those who were handed a digest and do not believe Redis about what it is.

        Raises:
            VersionNotFound: the function, or that version of it, is gone.
        """
        known = self._versions.get((function, digest))
        if known is not None:
            return known
        number = await self._store.number_of(function, digest)
        record = None if number is None else await self._store.any_record(function, number)
        if record is None and number is not None:
            raise await self._unready(function, number)
        if record is None:
            raise VersionNotFound(
                f"{function!r} has no version {digest[:12]}…: it was deleted, or is not among those that are kept"
            )
        version = verify_version(record, function, self._signing_key)
        if version.digest != digest:
            raise UnsafeRecord(
                f"the record of version {digest[:12]}… of {function!r} is the one of {version.digest[:12]}…"
            )
        _bounded(self._versions)[function, digest] = version
        return version

    async def bundle(self, digest: str) -> Bundle:
        """The files of a version, verified against its digest.

        Raises:
            VersionNotFound: they are no longer stored.
        """
        if not is_digest(digest):
            raise UnsafeRecord(f"{digest[:80]!r} is no digest")
        packed = await self._store.download(digest)
        if not packed:
            raise VersionNotFound(f"the code of version {digest[:12]}… is no longer stored; deploy the function again")
        return await asyncio.to_thread(_unpacked, packed, digest)

    async def describe(self, name: str) -> FunctionDetails:
        """Everything about a function.

        Raises:
            FunctionNotFound: there is none of that name.
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
        """A version that cannot be called yet, or never; None for any other."""
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
        """What the dependencies of a version were resolved to.

        Raises:
            UnsafeRecord: there is none that is signed with our key.
        """
        return open_lock(await self._store.lock(version.digest), version.digest, self._signing_key)

    async def _lock_for(self, digest: str, name: str, manifest: Manifest) -> bytes:
        """The lock of what `$LATEST` means, signed for this digest, if that depends on the same; else nothing.

        So a change of the code alone waits for no index, and gets no other packages than the ones it was tried with.
        """
        number = await self._store.latest_number(name) if manifest.dependencies else None
        record = None if number is None else await self._store.record(name, number)
        if record is None:
            return b""
        try:
            before = verify_version(record, name, self._signing_key)
            lock = await self.lock(before) if build_inputs(before.manifest) == build_inputs(manifest) else None
        except UnsafeRecord:  # deploying again is what helps against that, so it does not fail here
            return b""
        return b"" if lock is None else seal_lock(lock, digest, self._signing_key)

    async def move_alias(self, name: str, alias: str, target: Alias, *, revision: str = "") -> str:
        """Let the alias mean this from now on; the function's new revision. `$LATEST` is moved like any other.

        Raises:
            CallerError: no such alias can be.
            FunctionNotFound, VersionNotFound: there is no such function, or a version that it should mean is not there.
            VersionConflict: the function is at another revision than the one given.
        """
        check_alias(alias, target)
        return await self._set_alias(name, alias, msgspec.json.encode(target), revision, target.numbers())

    async def remove_alias(self, name: str, alias: str, *, revision: str = "") -> str:
        """The function's new revision.

        Raises:
            CallerError: it is `$LATEST`.
            FunctionNotFound, VersionNotFound: there is no such function or alias.
            VersionConflict: the function is at another revision than the one given.
        """
        if alias == LATEST:
            raise CallerError(f"{LATEST} cannot be removed; remove the function, or move it to another version")
        return await self._set_alias(name, alias, b"", revision, ())

    async def _set_alias(self, name: str, alias: str, text: bytes, revision: str, numbers: Sequence[int]) -> str:
        answer = await self._store.set_alias(name, alias, text, revision, numbers)
        self._forget(name)
        match answer[0]:
            case b"ok":
                return answer[1].decode()
            case b"stale":
                raise _changed_meanwhile(name)
            case b"no_version":
                raise VersionNotFound(f"{name!r} has no version {answer[1].decode()}")
            case b"no_alias":
                raise VersionNotFound(f"{name!r} has no alias {alias[:80]!r}")
            case _:
                raise _no_function(name)

    async def list(self, limit: int = 100, cursor: str = "") -> FunctionPage:
        """Up to `limit` functions whose names come after `cursor`."""
        names = await self._store.names(cursor, limit + 1)
        functions: list[Version | PendingVersion] = []
        for name in names[:limit]:
            # Deleted, or deleted and deployed again, since it was read: simply no longer in the list.
            with contextlib.suppress(FunctionNotFound, VersionPending, VersionFailed):
                functions.append(await self._listed(name))
        return FunctionPage(functions=tuple(functions), next=names[limit - 1] if len(names) > limit else None)

    async def _listed(self, name: str) -> Version | PendingVersion:
        try:
            return await self.resolve(name)
        except (VersionPending, VersionFailed):
            number = await self._store.wanted_number(name)
            waiting = None if number is None else await self.pending(name, number)
            return waiting if waiting is not None else await self.resolve(name)  # its build has just ended

    async def delete(self, name: str, *, revision: str = "") -> None:
        """Remove a function with all its versions.

        Raises:
            FunctionNotFound: there is none of that name.
            VersionConflict: it is at another revision than the one given.
        """
        answer = await self._store.undeploy(name, revision)
        self._forget(name)
        if answer < 0:
            raise _changed_meanwhile(name)
        if not answer:
            raise _no_function(name)

    async def _read(self, name: str, qualifier: str) -> Version | WeightedAlias:
        latest = await self._store.latest_number(name) if FUNCTION_NAME.match(name) else None
        if latest is None:
            wanted = await self._store.wanted_number(name) if FUNCTION_NAME.match(name) else None
            raise _no_function(name) if wanted is None else await self._unready(name, wanted)
        if not ALIAS_NAME.match(qualifier):
            return await self._numbered(name, latest if qualifier == LATEST else _number(qualifier), qualifier, latest)
        text = await self._store.alias(name, qualifier)
        if text is None:
            raise VersionNotFound(f"{name!r} has no alias {qualifier!r}; the latest is {latest}")
        alias = parse_alias(text, name)
        versions = {number: await self._numbered(name, number, qualifier, latest) for number in alias.numbers()}
        return WeightedAlias(qualifier, alias, versions) if alias.weights else versions[alias.version]

    async def _numbered(self, name: str, number: int, qualifier: str, latest: int) -> Version:
        record = await self._store.record(name, number)
        if record is None and number:
            raise await self._unready(name, number, f"; the latest is {latest}")
        if record is None:
            raise VersionNotFound(f"{name!r} has no version {qualifier[:80]!r}; the latest is {latest}")
        version = verify_version(record, name, self._signing_key)
        if version.number != number:
            raise UnsafeRecord(f"the record of version {number} of {name!r} is the one of version {version.number}")
        return version

    async def _unready(self, name: str, number: int, hint: str = "") -> SandlotError:
        """Why a version that is not active cannot be used."""
        waiting = await self.pending(name, number)
        if waiting is None:
            return VersionNotFound(f"{name!r} has no version {number}{hint}")
        if waiting.state == "failed":
            return VersionFailed(f"version {number} of {name!r} cannot be called: {waiting.reason}")
        step = waiting.progress or "waiting for a worker"
        return VersionPending(f"version {number} of {name!r} is not ready: its dependencies come first ({step})")

    def _forget(self, name: str | None) -> None:
        """Drop what is cached about one function, or about all (`None`). What a digest means never changes and stays."""
        self._epoch += 1
        for key in [key for key in self._resolved if name is None or key[0] == name]:
            del self._resolved[key]


def _number(qualifier: str) -> int:
    """The number that is written there; 0, which no version has, if none is."""
    return int(qualifier) if qualifier.isascii() and qualifier.isdigit() and len(qualifier) < 10 else 0


def _no_function(name: str) -> FunctionNotFound:
    return FunctionNotFound(f"no function {name[:80]!r} is deployed")


def _changed_meanwhile(name: str) -> VersionConflict:
    return VersionConflict(
        f"{name[:80]!r} has changed since you looked (If-Match does not hold); nothing was done. Look again, then decide"
    )


def _unpacked(packed: bytes, digest: str) -> Bundle:
    if digest_of(packed) != digest:
        raise UnsafeRecord(f"the stored code of version {digest[:12]}… has another digest: it was damaged or replaced")
    return unpack(packed)[0]


def _bounded(cache: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """Starting over is as good as any policy for a cache that only an attack can fill."""
    if len(cache) >= _CACHE_LIMIT:
        cache.clear()
    return cache
