"""/v1/secrets: set, list and delete secrets. No reply contains a value.

A key that is limited to some functions may use only secrets that are limited to them.
"""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec
from fastapi import Request
from fastapi.responses import Response

from api.dependencies import KeyDep, SecretsDep
from api.documents import Document, iso
from api.http.body import read_body
from api.operations.secrets import DELETE_SECRET, GET_SECRET, LIST_SECRETS, SET_SECRET
from api.responses import json_reply, response_of
from api.routing import Handlers
from sandlot.api_keys import ApiKey
from sandlot.errors import CallerError, Forbidden, InvalidJson, SecretNotFound
from sandlot.secret_store import VALUE_LIMIT_BYTES, Secret, SecretStore
from sandlot.strict_json import check_json

_LIMIT_BYTES: Final = 8 * VALUE_LIMIT_BYTES
"""JSON may write one byte as six."""

handlers = Handlers()


class _SecretBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: str
    prefix: str = ""


@handlers.serves(LIST_SECRETS)
async def list_secrets(key: KeyDep, secrets: SecretsDep) -> Response:
    shown = [_document(secret) for secret in await secrets.list_all() if secret.prefix.startswith(_prefix(key))]
    return response_of(json_reply(200, {"secrets": shown}))


@handlers.serves(GET_SECRET)
async def get_secret(secret: str, key: KeyDep, secrets: SecretsDep) -> Response:
    return response_of(json_reply(200, _document(await _covered_secret(key, secrets, secret))))


@handlers.serves(SET_SECRET)
async def set_secret(request: Request, secret: str, key: KeyDep, secrets: SecretsDep) -> Response:
    """Set or replace a secret. Running functions get the new value with their next call."""
    body = await read_body(request.scope, request.receive, dict(request.scope["headers"]), _LIMIT_BYTES)
    given = _read_secret(body)
    _require_prefix(key, given.prefix)
    with contextlib.suppress(SecretNotFound):  # then it is new and replaces nothing
        await _covered_secret(key, secrets, secret)
    return response_of(json_reply(200, _document(await secrets.put(secret, given.value, given.prefix))))


@handlers.serves(DELETE_SECRET)
async def delete_secret(secret: str, key: KeyDep, secrets: SecretsDep) -> Response:
    """Delete a secret. Functions that list it cannot start until it is set again."""
    await _covered_secret(key, secrets, secret)
    await secrets.delete(secret)
    return response_of((204, [], b""))


async def _covered_secret(key: ApiKey | None, secrets: SecretStore, name: str) -> Secret:
    """Return the secret, if the key covers the functions that it is for.

    Raises:
        SecretNotFound: no secret has this name.
        Forbidden: the secret is for functions that the key does not cover.
    """
    secret = await secrets.describe(name)
    _require_prefix(key, secret.prefix)
    return secret


def _prefix(key: ApiKey | None) -> str:
    return key.prefix if key is not None else ""


def _require_prefix(key: ApiKey | None, prefix: str) -> None:
    limit = _prefix(key)
    if not prefix.startswith(limit):
        raise Forbidden(
            f"this key covers only functions named {limit}…; give the secret a prefix that begins with it, as in"
            f' {{"value": "…", "prefix": "{limit}"}}'
        )


def _document(secret: Secret) -> Document:
    return {"name": secret.name, "prefix": secret.prefix, "updated_at": iso(secret.updated_ms)}


def _read_secret(body: bytes) -> _SecretBody:
    """Parse the body. Errors never quote it: it contains the secret."""
    try:
        check_json(body)
        return msgspec.json.decode(body, type=_SecretBody)
    except InvalidJson:
        raise InvalidJson("the body, which holds the secret, is not acceptable JSON") from None
    except msgspec.MsgspecError:
        raise CallerError(
            'a secret is {"value": "…"} or {"value": "…", "prefix": "shop-"}, both of them strings'
        ) from None
