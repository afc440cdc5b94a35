"""Secrets: written by whoever deploys, opened by workers for functions that name them, and never readable in Redis.

Knows: how a secret is sealed and opened, who may have it. Does not know: HTTP, sandboxes, how a value gets into a process.
Sealed with AES-256-GCM under a key derived from the signing key (HKDF, RFC 5869), which APIs and workers have and Redis has not.
"""

from __future__ import annotations

import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sandlot.errors import CallerError, QueueUnavailable, SecretNotFound, UnsafeRecord
from sandlot.redis.keys import SECRETS, SECRETS_CHANGED

SECRET_NAME: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
"""It becomes a variable of the environment."""
VALUE_LIMIT_BYTES: Final = 16 * 1024
_PURPOSE: Final = b"sandlot.secrets.1"
_NONCE_BYTES: Final = 12
"""Random, as NIST SP 800-38D allows for fewer than 2^32 secrets under one key."""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What may be known of a secret: everything but its value. `prefix`: only functions whose names begin so may have it."""

    name: str
    prefix: str = ""
    updated_ms: int = 0


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prefix: str
    updated_ms: int
    box: str

    def label(self, name: str) -> bytes:
        """Authenticated with the value, so that nobody can rename a secret or hand it to other functions."""
        return msgspec.json.encode([name, self.prefix, self.updated_ms])


class SecretStore:
    """Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(signing_key)
        self._cipher = AESGCM(derived)

    async def put(self, name: str, value: str, prefix: str = "") -> Secret:
        """Set or replace a secret.

        Raises:
            CallerError: the name or the value cannot be a variable's.
        """
        check_secret(name, value)
        sealed = _Sealed(prefix=prefix, updated_ms=time.time_ns() // 1_000_000, box="")
        nonce = os.urandom(_NONCE_BYTES)
        box = nonce + self._cipher.encrypt(nonce, value.encode(), sealed.label(name))
        record = msgspec.structs.replace(sealed, box=b64encode(box).decode())
        try:
            await self._redis.hset(SECRETS, name, cast("str", msgspec.json.encode(record)))
            await self._redis.publish(SECRETS_CHANGED, name)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        return Secret(name=name, prefix=prefix, updated_ms=record.updated_ms)

    async def list_all(self) -> list[Secret]:
        """All of them, by name, without their values."""
        try:
            fields = cast("dict[bytes, bytes]", await self._redis.hgetall(SECRETS))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        found = {name.decode(): _record(name.decode(), text) for name, text in fields.items()}
        return [Secret(name=name, prefix=one.prefix, updated_ms=one.updated_ms) for name, one in sorted(found.items())]

    async def describe(self, name: str) -> Secret:
        """
        Raises:
            SecretNotFound: there is none of that name.
        """
        sealed = (await self._read([name]))[0]
        if sealed is None:
            raise SecretNotFound(f"there is no secret {name[:80]!r}")
        return Secret(name=name, prefix=sealed.prefix, updated_ms=sealed.updated_ms)

    async def delete(self, name: str) -> None:
        """
        Raises:
            SecretNotFound: there is none of that name.
        """
        try:
            removed = await self._redis.hdel(SECRETS, name)
            await self._redis.publish(SECRETS_CHANGED, name)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        if not removed:
            raise SecretNotFound(f"there is no secret {name[:80]!r}")

    async def missing(self, function: str, names: Sequence[str]) -> list[str]:
        """Which of these secrets this function would not get."""
        return [
            name
            for name, sealed in zip(names, await self._read(names), strict=True)
            if sealed is None or not function.startswith(sealed.prefix)
        ]

    async def reveal(self, function: str, names: Sequence[str]) -> dict[str, str]:
        """The values, for a sandbox of this function.

        Raises:
            SecretNotFound: one is not there, or not for this function.
            UnsafeRecord: one was not sealed with our key, or was changed.
        """
        opened = {}
        for name, sealed in zip(names, await self._read(names), strict=True):
            if sealed is None or not function.startswith(sealed.prefix):
                raise SecretNotFound(
                    f"{function!r} needs the secret {name}, which is not there for it; set it with: sandlot secret set {name}"
                )
            opened[name] = self._open(name, sealed)
        return opened

    def _open(self, name: str, sealed: _Sealed) -> str:
        try:
            box = b64decode(sealed.box, validate=True)
            return self._cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], sealed.label(name)).decode()
        except (InvalidTag, ValueError):  # ValueError: no base64, or too short to be a box
            raise UnsafeRecord(
                f"the secret {name} was not sealed with this signing key, or was changed in Redis; set it again"
            ) from None

    async def _read(self, names: Sequence[str]) -> list[_Sealed | None]:
        if not names:
            return []
        try:
            found = cast("list[bytes | None]", await self._redis.hmget(SECRETS, list(names)))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        return [None if text is None else _record(name, text) for name, text in zip(names, found, strict=True)]


def check_secret(name: str, value: str) -> None:
    """
    Raises:
        CallerError: that cannot be a variable of the environment; the message never has the value.
    """
    if not SECRET_NAME.match(name):
        raise CallerError(
            f"{name[:80]!r} is no name for a secret: write letters, digits and underscores, as in DB_PASSWORD"
        )
    if not value:
        raise CallerError(f"the value of {name} is empty")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise CallerError(f"the value of {name} has a null byte, or is not text")
    if len(value.encode()) > VALUE_LIMIT_BYTES:
        raise CallerError(
            f"the value of {name} has {len(value.encode())} bytes; at most {VALUE_LIMIT_BYTES} are allowed"
        )


def _record(name: str, text: bytes) -> _Sealed:
    try:
        return msgspec.json.decode(text, type=_Sealed)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(f"the secret {name[:80]!r} in Redis cannot be read: {error}") from error


def _unavailable(error: Exception) -> QueueUnavailable:
    return QueueUnavailable(f"Redis did not do what was asked about secrets: {error or type(error).__name__}")
