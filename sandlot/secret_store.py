"""Secrets: set at deploy time, opened by workers for the functions that name them.

Redis never holds them in readable form. Values are sealed with AES-256-GCM under a key derived from
the signing key (HKDF, RFC 5869), which the API and the workers have and Redis does not.
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
"""A secret becomes an environment variable of this name."""
VALUE_LIMIT_BYTES: Final = 16 * 1024
_PURPOSE: Final = b"sandlot.secrets.1"
_NONCE_BYTES: Final = 12
"""Random, as NIST SP 800-38D permits for fewer than 2^32 secrets under one key."""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """Public data of a secret: everything but its value.

    Only functions whose names start with `prefix` receive it.
    """

    name: str
    prefix: str = ""
    updated_ms: int = 0


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prefix: str
    updated_ms: int
    box: str

    def label(self, name: str) -> bytes:
        """Return the data that is authenticated along with the value.

        It keeps a record from being renamed or given to other functions.
        """
        return msgspec.json.encode([name, self.prefix, self.updated_ms])


class SecretStore:
    """Store of secrets in Redis.

    Every method raises QueueUnavailable when Redis does not answer.
    """

    def __init__(self, redis: Redis, signing_key: bytes) -> None:
        self._redis = redis
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(signing_key)
        self._cipher = AESGCM(derived)

    async def put(self, name: str, value: str, prefix: str = "") -> Secret:
        """Set or replace a secret.

        Raises:
            CallerError: the name or the value is not valid for an environment variable.
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
        """Return all secrets, sorted by name, without their values."""
        try:
            fields = cast("dict[bytes, bytes]", await self._redis.hgetall(SECRETS))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        found = {name.decode(): _parse_record(name.decode(), text) for name, text in fields.items()}
        return [Secret(name=name, prefix=one.prefix, updated_ms=one.updated_ms) for name, one in sorted(found.items())]

    async def describe(self, name: str) -> Secret:
        """Return a secret without its value.

        Raises:
            SecretNotFound: no secret of that name exists.
        """
        sealed = (await self._read([name]))[0]
        if sealed is None:
            raise SecretNotFound(f"no secret {name[:80]!r} exists")
        return Secret(name=name, prefix=sealed.prefix, updated_ms=sealed.updated_ms)

    async def delete(self, name: str) -> None:
        """Delete a secret.

        Raises:
            SecretNotFound: no secret of that name exists.
        """
        try:
            removed = await self._redis.hdel(SECRETS, name)
            await self._redis.publish(SECRETS_CHANGED, name)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        if not removed:
            raise SecretNotFound(f"no secret {name[:80]!r} exists")

    async def missing(self, function: str, names: Sequence[str]) -> list[str]:
        """Return those of the names that this function would not receive."""
        return [
            name
            for name, sealed in zip(names, await self._read(names), strict=True)
            if sealed is None or not function.startswith(sealed.prefix)
        ]

    async def reveal(self, function: str, names: Sequence[str]) -> dict[str, str]:
        """Return the values, for a sandbox of this function.

        Raises:
            SecretNotFound: one does not exist, or is not for this function.
            UnsafeRecord: one was not sealed with our key, or was changed.
        """
        opened = {}
        for name, sealed in zip(names, await self._read(names), strict=True):
            if sealed is None or not function.startswith(sealed.prefix):
                raise SecretNotFound(
                    f"{function!r} needs the secret {name}, which does not exist or is not for this function; set it with: sandlot secret set {name}"
                )
            opened[name] = self._open(name, sealed)
        return opened

    def _open(self, name: str, sealed: _Sealed) -> str:
        try:
            box = b64decode(sealed.box, validate=True)
            return self._cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], sealed.label(name)).decode()
        except (InvalidTag, ValueError):  # ValueError: not base64, or shorter than a nonce
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
        return [None if text is None else _parse_record(name, text) for name, text in zip(names, found, strict=True)]


def check_secret(name: str, value: str) -> None:
    """Check that the name and the value are valid for an environment variable.

    Raises:
        CallerError: one of them is not; the message never contains the value.
    """
    if not SECRET_NAME.match(name):
        raise CallerError(
            f"{name[:80]!r} is not a valid secret name: use letters, digits and underscores, as in DB_PASSWORD"
        )
    if not value:
        raise CallerError(f"the value of {name} is empty")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise CallerError(f"the value of {name} contains a null byte or a lone surrogate")
    if len(value.encode()) > VALUE_LIMIT_BYTES:
        raise CallerError(
            f"the value of {name} has {len(value.encode())} bytes; at most {VALUE_LIMIT_BYTES} are allowed"
        )


def _parse_record(name: str, text: bytes) -> _Sealed:
    try:
        return msgspec.json.decode(text, type=_Sealed)
    except msgspec.MsgspecError as error:
        raise UnsafeRecord(f"the secret {name[:80]!r} in Redis cannot be read: {error}") from error


def _unavailable(error: Exception) -> QueueUnavailable:
    return QueueUnavailable(f"Redis did not answer while secrets were read or written: {error or type(error).__name__}")
