"""/v1/functions: what is deployed; deploy another version; remove.

Knows: the forms a deploy may have over HTTP. Does not know: what makes a function valid, how it is stored.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.auth import key_of
from api.body import read_body
from api.documents import version_document
from api.replies import json_reply, response_of
from api.wishes import read_query
from sandlot.errors import CallerError, InvalidJson, UnsupportedMediaType
from sandlot.functions import Bundle, Manifest, Registry, read_archive, read_source
from sandlot.json_text import check_json
from sandlot.models import LATEST

_DEPLOY_LIMIT_BYTES: Final = 48 * 1024 * 1024
"""A bundle of 32 MiB, base64 or JSON escapes included."""
_NOTHING: Final[frozenset[str]] = frozenset()


class Deploy(BaseModel):
    """One source file. Keys in `manifest` win over those in the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the text of the file")
    filename: str | None = Field(
        None, description="its name, which says the runtime (main.py, index.mjs); Python without it"
    )
    manifest: dict[str, Any] | None = Field(None, description='as in the source: {"timeout": "5s", "memory": "256MiB"}')


def add_routes(routes: APIRouter, registry: Registry) -> None:
    @routes.get("/v1/functions")
    async def list_functions(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str, Query(max_length=64)] = "",
    ) -> Response:
        """Functions in the order of their names; `next` is the cursor of the next page, or null."""
        page = await registry.list(limit, cursor)
        key = key_of(request.scope)
        shown = [
            version_document(version)
            for version in page.functions
            if key is None or version.function.startswith(key.prefix)
        ]
        return response_of(json_reply(200, {"functions": shown, "next": page.next}))

    @routes.get("/v1/functions/{name}")
    async def describe_function(request: Request, name: str) -> Response:
        """One version (the latest, or `?version=`) and the numbers of all that are kept."""
        query = read_query(request.scope, frozenset({"version"}))
        version = await registry.resolve(name, query.get("version", LATEST))
        described = await registry.describe(name)
        versions = [{"version": kept.number, "digest": kept.digest} for kept in described.versions]
        return response_of(
            json_reply(200, version_document(version) | {"latest": described.latest.number, "versions": versions})
        )

    @routes.put("/v1/functions/{name}")
    async def deploy_function(request: Request, name: str) -> Response:
        """Deploy a new version; a source and manifest that were deployed before are the same version again."""
        read_query(request.scope, _NOTHING)
        headers = dict(request.scope["headers"])
        media_type = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower().decode("latin-1")
        if media_type not in _READERS:
            raise UnsupportedMediaType(f"a deploy is {' or '.join(_READERS)}, not {media_type[:80]}")
        body = await read_body(request.receive, headers, _DEPLOY_LIMIT_BYTES)
        # In a thread: Node files are checked by a node process, archives are unpacked.
        bundle, manifest = await asyncio.to_thread(_READERS[media_type], name, body)
        deployed = await registry.deploy(name, bundle, manifest)
        location = [(b"location", f"/v1/functions/{name}".encode())]
        return response_of(
            json_reply(
                201 if deployed.created else 200,
                version_document(deployed.version) | {"changed": deployed.changed},
                location,
            )
        )

    @routes.delete("/v1/functions/{name}")
    async def delete_function(request: Request, name: str) -> Response:
        """Remove a function with all its versions; what is queued ends without running."""
        read_query(request.scope, _NOTHING)
        await registry.delete(name)
        return response_of((204, [], b""))


def _read_json(name: str, body: bytes) -> tuple[Bundle, Manifest]:
    try:
        check_json(body)
        deploy = Deploy.model_validate_json(body)
    except InvalidJson as error:
        raise InvalidJson(f"the body, which describes the function, is {error.message}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise CallerError(
            f'{where}: {first["msg"]}; a deploy is {{"source": "…", "filename": "main.py", "manifest": {{…}}}}'
        ) from None
    return read_source(name, deploy.filename, deploy.source, deploy.manifest)


def _read_zip(name: str, body: bytes) -> tuple[Bundle, Manifest]:
    return read_archive(body)


_READERS: Final = {"application/json": _read_json, "application/zip": _read_zip}
