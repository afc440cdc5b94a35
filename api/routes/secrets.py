"""/v1/secrets: set, list and remove what functions may be given; a value goes in and never comes out.

Knows: the routes, and that a key limited to some functions handles only secrets limited to them. Does not know: how a secret is sealed.
"""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import key_of
from api.call_options import read_query
from api.documents import Document, iso
from api.http.body import read_body
from api.responses import json_reply, response_of
from sandlot.errors import CallerError, Forbidden, InvalidJson, SecretNotFound
from sandlot.secret_store import VALUE_LIMIT_BYTES, Secret, SecretStore
from sandlot.strict_json import check_json

_LIMIT_BYTES: Final = 8 * VALUE_LIMIT_BYTES
"""JSON may write one byte as six."""
_NOTHING: Final[frozenset[str]] = frozenset()


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: str
    prefix: str = ""


def add_routes(routes: APIRouter, secrets: SecretStore) -> None:
    @routes.get("/v1/secrets")
    async def list_secrets(request: Request) -> Response:
        """Names, and which functions may have them; never a value."""
        read_query(request.scope, _NOTHING)
        shown = [_document(secret) for secret in await secrets.list_all() if secret.prefix.startswith(_prefix(request))]
        return response_of(json_reply(200, {"secrets": shown}))

    @routes.get("/v1/secrets/{secret}")
    async def show_secret(request: Request, secret: str) -> Response:
        """When it was set and which functions may have it; never its value."""
        read_query(request.scope, _NOTHING)
        return response_of(json_reply(200, _document(await _own(request, secrets, secret))))

    @routes.put("/v1/secrets/{secret}")
    async def set_secret(request: Request, secret: str) -> Response:
        """Set or replace a secret; running functions get the new value with their next call."""
        read_query(request.scope, _NOTHING)
        given = _read(await read_body(request.scope, request.receive, dict(request.scope["headers"]), _LIMIT_BYTES))
        _require(request, given.prefix)
        with contextlib.suppress(SecretNotFound):  # then it is new, and nobody's is replaced
            await _own(request, secrets, secret)
        return response_of(json_reply(200, _document(await secrets.put(secret, given.value, given.prefix))))

    @routes.delete("/v1/secrets/{secret}")
    async def delete_secret(request: Request, secret: str) -> Response:
        """Remove a secret; functions that name it cannot be started until it is set again."""
        read_query(request.scope, _NOTHING)
        await _own(request, secrets, secret)
        await secrets.delete(secret)
        return response_of((204, [], b""))


async def _own(request: Request, secrets: SecretStore, name: str) -> Secret:
    """
    Raises:
        SecretNotFound: there is none of that name.
        Forbidden: it is for functions that this key does not cover.
    """
    secret = await secrets.describe(name)
    _require(request, secret.prefix)
    return secret


def _prefix(request: Request) -> str:
    key = key_of(request.scope)
    return key.prefix if key is not None else ""


def _require(request: Request, prefix: str) -> None:
    limit = _prefix(request)
    if not prefix.startswith(limit):
        raise Forbidden(
            f"this key covers functions named {limit}… only; give the secret a prefix that begins so, as in"
            f' {{"value": "…", "prefix": "{limit}"}}'
        )


def _document(secret: Secret) -> Document:
    return {"name": secret.name, "prefix": secret.prefix, "updated_at": iso(secret.updated_ms)}


def _read(body: bytes) -> _Given:
    """The errors say nothing of what the body says: it is a secret."""
    try:
        check_json(body)
        return msgspec.json.decode(body, type=_Given)
    except InvalidJson:
        raise InvalidJson("the body, which holds the secret, is not acceptable JSON") from None
    except msgspec.MsgspecError:
        raise CallerError(
            'a secret is {"value": "…"} or {"value": "…", "prefix": "shop-"}, both of them texts'
        ) from None
