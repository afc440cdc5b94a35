"""/v1/functions/{name}/versions and /aliases: list and download versions, point aliases at them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from fastapi import Request
from fastapi.responses import Response

from api.dependencies import QueueDep, RegistryDep, RevisionDep
from api.documents import alias_document, version_document
from api.http.body import read_body
from api.http.conditional import etag
from api.operations.versions import GET_ALIAS, GET_BUNDLE, LIST_ALIASES, LIST_VERSIONS, MOVE_ALIAS, REMOVE_ALIAS
from api.responses import json_reply, response_of
from api.routing import Handlers
from sandlot.errors import CallerError, InvalidJson, VersionNotFound
from sandlot.functions import Alias, write_version
from sandlot.strict_json import check_json

_ALIAS_LIMIT_BYTES: Final = 16 * 1024

handlers = Handlers()


@handlers.serves(LIST_VERSIONS)
async def list_versions(
    name: str,
    registry: RegistryDep,
    limit: Annotated[int, LIST_VERSIONS.field("limit")] = 100,
    cursor: Annotated[int, LIST_VERSIONS.field("cursor")] = 0,
) -> Response:
    described = await registry.describe(name)
    rest = [version for version in described.versions if not cursor or version.number < cursor]
    more = rest[limit - 1].number if len(rest) > limit else None
    shown = [version_document(version) for version in rest[:limit]]
    return response_of(json_reply(200, {"versions": shown, "next": more}, etag(described.revision)))


@handlers.serves(GET_BUNDLE)
async def get_bundle(name: str, version: str, registry: RegistryDep) -> Response:
    found = await registry.resolve(name, version)
    bundle = await registry.bundle(found.digest)
    archive = await asyncio.to_thread(write_version, bundle, found.manifest)
    filename = f'attachment; filename="{name}-{found.number}.zip"'
    headers = [
        (b"content-type", b"application/zip"),
        (b"content-disposition", filename.encode()),
        (b"x-function-version", b"%d" % found.number),
    ]
    return response_of((200, headers, archive))


@handlers.serves(LIST_ALIASES)
async def list_aliases(name: str, registry: RegistryDep) -> Response:
    described = await registry.describe(name)
    aliases = {alias: alias_document(target) for alias, target in described.aliases.items()}
    return response_of(json_reply(200, {"aliases": aliases}, etag(described.revision)))


@handlers.serves(GET_ALIAS)
async def get_alias(name: str, alias: str, registry: RegistryDep) -> Response:
    described = await registry.describe(name)
    target = described.aliases.get(alias)
    if target is None:
        raise VersionNotFound(f"{name!r} has no alias {alias[:80]!r}")
    return response_of(json_reply(200, {"alias": alias} | alias_document(target), etag(described.revision)))


@handlers.serves(MOVE_ALIAS)
async def move_alias(
    request: Request, name: str, alias: str, revision: RevisionDep, registry: RegistryDep, queue: QueueDep
) -> Response:
    headers = dict(request.scope["headers"])
    target = _read_alias(await read_body(request.scope, request.receive, headers, _ALIAS_LIMIT_BYTES))
    moved_to = await registry.move_alias(name, alias, target, revision=revision)
    await queue.close_breaker(name)
    return response_of(json_reply(200, {"alias": alias} | alias_document(target), etag(moved_to)))


@handlers.serves(REMOVE_ALIAS)
async def remove_alias(name: str, alias: str, revision: RevisionDep, registry: RegistryDep) -> Response:
    return response_of((204, etag(await registry.remove_alias(name, alias, revision=revision)), b""))


def _read_alias(body: bytes) -> Alias:
    try:
        check_json(body)
        return msgspec.json.decode(body, type=Alias)
    except InvalidJson as error:
        raise InvalidJson(f"the body, which describes the alias, is {error.message}") from None
    except msgspec.MsgspecError as error:
        raise CallerError(
            f'{error}; an alias is {{"version": 3}} or {{"version": 3, "weights": {{"4": 0.1}}}}'
        ) from None
