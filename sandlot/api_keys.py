"""API keys: their tokens, owners and scopes, and the store that checks them.

A key is stored as the SHA-256 of its secret, never the secret. Each record is signed, so that write
access to Redis alone is not enough to create a key. Which route needs which scope is decided in
`api/auth.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Collection
from enum import StrEnum
from typing import Final, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sandlot.errors import CallerError, Forbidden, QueueUnavailable, Unauthenticated
from sandlot.models import FUNCTION_NAME
from sandlot.redis.keys import API_KEYS
from sandlot.signing import mac

CACHE_S: Final = 1.0
"""How long a key that another process revoked can still be used in this one."""
_CACHE_LIMIT: Final = 10_000
_TOKEN: Final = re.compile(r"sk_([0-9a-f]{16})\.([A-Za-z0-9_-]{43})", re.ASCII)
_OWNER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SECRET_BYTES: Final = 32
DEFAULT_OWNER: Final = "default"
_PURPOSE: Final = b"api-key"

_log = logging.getLogger(__name__)


class Scope(StrEnum):
    """Permission that a key carries."""

    DEPLOY = "deploy"
    INVOKE = "invoke"
    READ = "read"
    ADMIN = "admin"
    """Everything, including the jobs of every owner."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """Record of a key.

    The key sees the jobs of its `owner`. Several keys may share an owner, which is how a key is
    rotated.
    """

    id: str
    digest: str
    owner: str
    scopes: frozenset[Scope]
    prefix: str = ""
    """The key covers only functions whose names start with this; empty for all."""
    note: str = ""
    created_ms: int = 0
    expires_ms: int = 0
    revoked_ms: int = 0

    def allows(self, scope: Scope, function: str | None = None) -> bool:
        """Return whether the key has the scope, on this function.

        `function` is `None` where no single function is concerned (a list, which is filtered by
        prefix instead).
        """
        return (scope in self.scopes or Scope.ADMIN in self.scopes) and (
            function is None or function.startswith(self.prefix)
        )

    def require(self, scope: Scope, function: str | None = None) -> None:
        """Raise Forbidden unless the key `allows` this."""
        if self.allows(scope, function):
            return
        scopes = ", ".join(sorted(self.scopes)) or "none"
        limit = f", on functions named {self.prefix}…" if self.prefix else ""
        raise Forbidden(f"this needs the scope {scope}; key {self.id} has: {scopes}{limit}")


class KeyStore:
    """Store of API keys in Redis.

    Every method raises QueueUnavailable when Redis does not answer.
    """

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        self._signing_key = signing_key
        self._known: dict[str, tuple[ApiKey | None, float]] = {}

    async def create(
        self,
        scopes: Collection[Scope],
        *,
        owner: str = DEFAULT_OWNER,
        prefix: str = "",
        lifetime_s: int = 0,
        note: str = "",
    ) -> tuple[str, ApiKey]:
        """Create a key; return its token and its record.

        The token is shown only here and stored nowhere.

        Args:
            lifetime_s: 0 for a key that does not expire.

        Raises:
            CallerError: there are no scopes, the prefix cannot start a function name, or the owner
                is not valid.
        """
        if not scopes:
            raise CallerError(f"a key needs at least one scope: {', '.join(Scope)}")
        if not _OWNER.fullmatch(owner):
            raise CallerError(
                f"{owner[:80]!r} is not a valid owner: use 1 to 64 letters, digits, dots, dashes and underscores"
            )
        if prefix and not FUNCTION_NAME.match(prefix):
            raise CallerError(f"{prefix[:80]!r} is not a valid prefix: no function name can start with it")
        token, now_ms = new_token(), _now_ms()
        key = ApiKey(
            id=_parse(token)[0],
            digest=_digest(token),
            owner=owner,
            scopes=frozenset(scopes),
            prefix=prefix,
            note=note,
            created_ms=now_ms,
            expires_ms=now_ms + lifetime_s * 1000 if lifetime_s else 0,
        )
        await self._write(key, replace=True)
        return token, key

    async def enrol(self, token: str, *, note: str = "") -> None:
        """Record a token that was made elsewhere as an admin key, unless its id is known.

        Such a token comes from the first start or from an operator.

        Raises:
            CallerError: the text is not a token.
        """
        key_id, _ = _parse(token)
        if not key_id:
            raise CallerError(
                "this is not an API key of Sandlot, which has the form sk_<16 hex digits>.<43 characters>; create one with: sandlot key create"
            )
        key = ApiKey(
            id=key_id,
            digest=_digest(token),
            owner=DEFAULT_OWNER,
            scopes=frozenset({Scope.ADMIN}),
            note=note,
            created_ms=_now_ms(),
        )
        await self._write(key, replace=False)

    async def list(self) -> list[ApiKey]:
        """Return every key, oldest first, including revoked and expired ones.

        Records without a valid signature are left out.
        """
        try:
            records = cast("dict[bytes, bytes]", await self._redis.hgetall(API_KEYS))
        except RedisError as error:
            raise _unavailable(error) from error
        read = (self._open(key_id.decode(), record) for key_id, record in records.items())
        return sorted((key for key in read if key is not None), key=lambda key: key.created_ms)

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key: this process refuses it at once, others within `CACHE_S`.

        Raises:
            CallerError: there is no such key.
        """
        key = await self._read(key_id)
        if key is None:
            raise _unknown_key(key_id)
        if not key.revoked_ms:
            key = msgspec.structs.replace(key, revoked_ms=_now_ms())
            await self._write(key, replace=True)
        return key

    async def rotate(self, key_id: str, overlap_s: int) -> tuple[str, ApiKey]:
        """Create a successor of a key; return its token and its record.

        The successor has the same owner, scopes, prefix, note and lifetime. The old key stays valid
        for another `overlap_s` (0: it is refused at once), but not beyond its own expiry.

        Raises:
            CallerError: there is no such key, or it is no longer valid.
        """
        old = await self._read(key_id)
        if old is None:
            raise _unknown_key(key_id)
        now_ms = _now_ms()
        if old.revoked_ms or 0 < old.expires_ms <= now_ms:
            raise CallerError(
                f"key {key_id} is {'revoked' if old.revoked_ms else 'expired'}; create a new one with: sandlot key create"
            )
        lifetime_s = (old.expires_ms - old.created_ms) // 1000 if old.expires_ms else 0
        token, new = await self.create(
            old.scopes, owner=old.owner, prefix=old.prefix, lifetime_s=lifetime_s, note=old.note
        )
        ends_ms = now_ms + overlap_s * 1000
        await self._write(
            msgspec.structs.replace(old, expires_ms=min(ends_ms, old.expires_ms or ends_ms)), replace=True
        )
        return token, new

    async def authenticate(self, token: str) -> ApiKey:
        """Return the key that this token proves.

        Raises:
            Unauthenticated: the text is not a token, or the key is unknown, expired or revoked; the
                message does not tell which.
        """
        known = self._known.get(token)
        if known is None or known[1] < time.monotonic():
            known = (await self._check(token), time.monotonic() + CACHE_S)
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()
            self._known[token] = known
        if known[0] is None:
            raise Unauthenticated("this API key is not valid: unknown, expired or revoked")
        return known[0]

    async def _check(self, token: str) -> ApiKey | None:
        key_id, _ = _parse(token)
        if not key_id:
            return None
        key = await self._read(key_id)
        # Do the same work for an unknown id, so that timing does not reveal which ids exist.
        matches = hmac.compare_digest(_digest(token), key.digest if key else _digest(""))
        if key is None or not matches or key.revoked_ms or (key.expires_ms and key.expires_ms <= _now_ms()):
            return None
        return key

    async def _read(self, key_id: str) -> ApiKey | None:
        try:
            record = cast("bytes | None", await self._redis.hget(API_KEYS, key_id))
        except RedisError as error:
            raise _unavailable(error) from error
        return None if record is None else self._open(key_id, record)

    def _open(self, key_id: str, record: bytes) -> ApiKey | None:
        signature, _, text = record.partition(b"|")
        if not hmac.compare_digest(signature, mac(self._signing_key, _PURPOSE, key_id.encode(), text)):
            _log.warning("API key is not signed", extra={"key": key_id[:80]})
            return None
        return msgspec.json.decode(text, type=ApiKey)

    async def _write(self, key: ApiKey, *, replace: bool) -> None:
        text = msgspec.json.encode(key)
        record = mac(self._signing_key, _PURPOSE, key.id.encode(), text) + b"|" + text
        try:
            if replace:
                await self._redis.hset(API_KEYS, key.id, record)
            else:
                await self._redis.hsetnx(API_KEYS, key.id, record)
        except RedisError as error:
            raise _unavailable(error) from error
        self._known.clear()


def new_token() -> str:
    """Return a new token, `sk_<id>.<secret>`, whose secret has 256 random bits."""
    return f"sk_{secrets.token_hex(8)}.{secrets.token_urlsafe(_SECRET_BYTES)}"


def _parse(token: str) -> tuple[str, str]:
    found = _TOKEN.fullmatch(token)
    return (found[1], found[2]) if found else ("", "")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _unknown_key(key_id: str) -> CallerError:
    return CallerError(f"no key {key_id[:80]!r} exists; list the keys with: sandlot key list")


def _unavailable(error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"Redis did not answer while an API key was read or written: {error}")
