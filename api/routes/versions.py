"""/v1/functions/{name}/versions and /aliases: look at what was deployed, fetch it, say which version a name means.

Knows: the routes, the form of an alias. Does not know: how a version or an alias is stored.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.call_options import read_query
from api.documents import alias_document, version_document
from api.http.body import read_body
from api.http.conditional import etag, read_if_match
from api.responses import json_reply, response_of
from sandlot.errors import CallerError, InvalidJson, VersionNotFound
from sandlot.functions import Alias, Registry, write_version
from sandlot.jobs import Queue
from sandlot.strict_json import check_json

_ALIAS_LIMIT_BYTES: Final = 16 * 1024
_NOTHING: Final[frozenset[str]] = frozenset()


def add_routes(routes: APIRouter, registry: Registry, queue: Queue) -> None:
    @routes.get("/v1/functions/{name}/versions")
    async def list_versions(
        request: Request,
        name: str,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        """Versions, newest first; `next` is the cursor of the next page, or null."""
        read_query(request.scope, frozenset({"limit", "cursor"}))
        described = await registry.describe(name)
        rest = [version for version in described.versions if not cursor or version.number < cursor]
        more = rest[limit - 1].number if len(rest) > limit else None
        shown = [version_document(version) for version in rest[:limit]]
        return response_of(json_reply(200, {"versions": shown, "next": more}, etag(described.revision)))

    @routes.get("/v1/functions/{name}/versions/{version}/bundle")
    async def download_bundle(request: Request, name: str, version: str) -> Response:
        """The code as a zip with its settings in function.toml; deploying that is the same version again."""
        read_query(request.scope, _NOTHING)
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

    @routes.get("/v1/functions/{name}/aliases")
    async def list_aliases(request: Request, name: str) -> Response:
        """Every alias of a function."""
        read_query(request.scope, _NOTHING)
        described = await registry.describe(name)
        aliases = {alias: alias_document(target) for alias, target in described.aliases.items()}
        return response_of(json_reply(200, {"aliases": aliases}, etag(described.revision)))

    @routes.get("/v1/functions/{name}/aliases/{alias}")
    async def show_alias(request: Request, name: str, alias: str) -> Response:
        """What an alias means."""
        read_query(request.scope, _NOTHING)
        described = await registry.describe(name)
        target = described.aliases.get(alias)
        if target is None:
            raise VersionNotFound(f"{name!r} has no alias {alias[:80]!r}")
        return response_of(json_reply(200, {"alias": alias} | alias_document(target), etag(described.revision)))

    @routes.put("/v1/functions/{name}/aliases/{alias}")
    async def move_alias(request: Request, name: str, alias: str) -> Response:
        """Let an alias mean this version from now on, or share calls between versions."""
        read_query(request.scope, _NOTHING)
        headers = dict(request.scope["headers"])
        target = _read_alias(await read_body(request.scope, request.receive, headers, _ALIAS_LIMIT_BYTES))
        revision = await registry.move_alias(name, alias, target, revision=read_if_match(headers))
        await queue.close_breaker(name)
        return response_of(json_reply(200, {"alias": alias} | alias_document(target), etag(revision)))

    @routes.delete("/v1/functions/{name}/aliases/{alias}")
    async def remove_alias(request: Request, name: str, alias: str) -> Response:
        """Remove an alias; the versions stay."""
        read_query(request.scope, _NOTHING)
        revision = await registry.remove_alias(name, alias, revision=read_if_match(dict(request.scope["headers"])))
        return response_of((204, etag(revision), b""))


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
