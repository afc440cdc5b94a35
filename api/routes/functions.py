"""The forms that a deploy may have over HTTP: JSON with one file's text, a zip, multipart files.

Knows: media types, fields. Does not know: what makes a function valid, routes.
Everything here may take seconds and runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.auth import key_of
from api.call_options import read_query
from api.documents import Document, alias_document, iso, version_document, waiting_document
from api.http.body import Part, read_body, read_multipart
from api.http.conditional import etag, read_if_match
from api.middleware.audit import DIGEST
from api.responses import json_reply, response_of
from sandlot.errors import CallerError, InvalidJson, UnsupportedMediaType
from sandlot.functions import (
    Bundle,
    FunctionDetails,
    Manifest,
    PendingVersion,
    Registry,
    Version,
    check_names,
    find_node,
    read_archive,
    read_files,
    read_source,
)
from sandlot.functions.bundle import FILES_LIMIT
from sandlot.jobs import Queue
from sandlot.models import LATEST
from sandlot.placement import start_command
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings
from sandlot.strict_json import check_json

DEPLOY_LIMIT_BYTES: Final = 50 * 1024 * 1024
"""Of a body, in whichever form; `sandlot.functions.bundle` limits what comes out of an archive."""


class Deploy(BaseModel):
    """One source file. Keys in `manifest` win over those in the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the text of the file")
    filename: str | None = Field(
        None, description="its name, which says the runtime (main.py, index.mjs); Python without it"
    )
    manifest: dict[str, Any] | None = Field(None, description='as in the source: {"timeout": "5s", "memory": "256MiB"}')


def reader_of(content_type: str, node: Path | None) -> Callable[[str, bytes], tuple[Bundle, Manifest]]:
    """What reads a body of this type, given the function's name.

    Raises:
        UnsupportedMediaType: nothing does.
    """
    media_type = content_type.split(";")[0].strip().lower()
    if media_type == "application/json":
        return lambda name, body: _read_json(name, body, node)
    if media_type == "application/zip":
        return lambda _, body: read_archive(body, node=node)
    if media_type == "multipart/form-data":
        return lambda name, body: _read_parts(name, read_multipart(content_type, body, FILES_LIMIT + 1), node)
    raise UnsupportedMediaType(
        f"a deploy is application/json, application/zip or multipart/form-data, not {media_type[:80]}"
    )


def _read_json(name: str, body: bytes, node: Path | None) -> tuple[Bundle, Manifest]:
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
    return read_source(name, deploy.filename, deploy.source, deploy.manifest, node=node)


def _read_parts(name: str, parts: list[Part], node: Path | None) -> tuple[Bundle, Manifest]:
    """Files by their names (paths in the function's folder), and a field `manifest`; a lone zip is that zip."""
    manifest: dict[str, Any] = {}
    for field in parts:
        if field.filename:
            continue
        if field.name != "manifest":
            raise CallerError(
                f"{field.name[:80]!r} is no field of a deploy; send files, and a field manifest if you like"
            )
        try:
            check_json(field.content)
            manifest = msgspec.json.decode(field.content, type=dict[str, Any])
        except (InvalidJson, msgspec.MsgspecError) as error:
            raise InvalidJson(f"the field manifest is not a JSON object: {error}") from None
    files = [part for part in parts if part.filename]
    if not files:
        raise CallerError("no file in the body: send each as a part with a filename, its path in the function's folder")
    if len(files) == 1 and files[0].filename.lower().endswith(".zip"):
        return read_archive(files[0].content, manifest, node=node)
    check_names([part.filename for part in files])
    return read_files({part.filename: part.content for part in files}, manifest, node=node)


_NOTHING: Final[frozenset[str]] = frozenset()
_DEPLOYS_AT_ONCE: Final = 2
"""One may hold some 600 MiB while it is unpacked, packed and stored; the others wait with their bodies."""


def add_routes(routes: APIRouter, registry: Registry, queue: Queue, secrets: SecretStore, settings: Settings) -> None:
    room = asyncio.Semaphore(_DEPLOYS_AT_ONCE)

    @routes.get("/v1/functions")
    async def list_functions(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str, Query(max_length=64)] = "",
    ) -> Response:
        """Functions in the order of their names; `next` is the cursor of the next page, or null."""
        read_query(request.scope, frozenset({"limit", "cursor"}))
        page = await registry.list(limit, cursor)
        key = key_of(request.scope)
        listed = [_listed_document(function) for function in page.functions]
        shown = [document for document in listed if key is None or document["name"].startswith(key.prefix)]
        return response_of(json_reply(200, {"functions": shown, "next": page.next}))

    @routes.get("/v1/functions/{name}")
    async def describe_function(request: Request, name: str) -> Response:
        """One version (the latest, or `?version=`), the numbers of all that are kept, and the aliases."""
        query = read_query(request.scope, frozenset({"version"}))
        described = await registry.describe(name)
        shown = await _shown(registry, described, name, query.get("version"))
        versions = [{"version": kept.number, "digest": kept.digest} for kept in described.versions]
        aliases = {alias: alias_document(target) for alias, target in described.aliases.items()}
        document = shown | {
            "latest": None if described.latest is None else described.latest.number,
            "revision": described.revision,
            "versions": versions,
            "waiting": [await _progress(registry, waiting) for waiting in described.pending],
            "aliases": aliases,
        }
        when = None if described.latest is None else described.latest.manifest.cron_schedule()
        if when is not None:
            document["next_run_at"] = iso(when.next_tick_ms(queue.now_ms()))
        return response_of(json_reply(200, document, etag(described.revision)))

    @routes.put("/v1/functions/{name}")
    async def deploy_function(request: Request, name: str) -> Response:
        """Deploy a new version; a source and manifest that were deployed before are the same version again."""
        read_query(request.scope, _NOTHING)
        headers = dict(request.scope["headers"])
        revision = read_if_match(headers)
        content_type = headers.get(b"content-type", b"application/json").decode("latin-1")
        read = reader_of(content_type, find_node(settings.node))
        body = await read_body(request.scope, request.receive, headers, DEPLOY_LIMIT_BYTES)
        async with room:
            # In a thread: Node files are checked by a node process, archives are unpacked.
            bundle, manifest = await asyncio.to_thread(read, name, body)
            deployed = await registry.deploy(name, bundle, manifest, revision=revision)
        await queue.close_breaker(name)
        request.scope[DIGEST] = deployed.version.digest
        document = version_document(deployed.version) | {"changed": deployed.changed}
        if not deployed.active:
            document["state"] = "pending"
        warnings = await _warnings(deployed.version, queue, secrets)
        if warnings:
            document["warnings"] = warnings
        location = (b"location", f"/v1/functions/{name}".encode())
        return response_of(json_reply(201 if deployed.created else 200, document, [location, *etag(deployed.revision)]))

    @routes.delete("/v1/functions/{name}")
    async def delete_function(request: Request, name: str) -> Response:
        """Remove a function with all its versions; what is queued ends as cancelled, what runs goes on."""
        read_query(request.scope, _NOTHING)
        await registry.delete(name, revision=read_if_match(dict(request.scope["headers"])))
        await queue.cancel_queued(name)
        await queue.close_breaker(name)
        return response_of((204, [], b""))


async def _shown(registry: Registry, described: FunctionDetails, name: str, qualifier: str | None) -> Document:
    """The version that was asked for; without one the latest, or the newest that waits where none is complete yet."""
    if qualifier is None and described.latest is not None:
        return version_document(described.latest)
    for waiting in described.pending:
        if qualifier in (None, str(waiting.version.number)):
            return await _progress(registry, waiting)
    return version_document(await registry.resolve(name, qualifier or LATEST))


async def _progress(registry: Registry, waiting: PendingVersion) -> Document:
    now = await registry.pending(waiting.version.function, waiting.version.number)
    return waiting_document(now or waiting)


def _listed_document(function: Version | PendingVersion) -> Document:
    return version_document(function) if isinstance(function, Version) else waiting_document(function)


async def _warnings(version: Version, queue: Queue, secrets: SecretStore) -> list[str]:
    """What is not wrong with a deploy, but will be with the first call."""
    missing = await secrets.missing(version.function, version.manifest.secrets)
    unset = [f"the secret {name} is not there for it. Set it with: sandlot secret set {name}" for name in missing]
    return unset + await _without_worker(version, queue)


async def _without_worker(version: Version, queue: Queue) -> list[str]:
    status = await queue.status()
    if not status.reachable or status.workers.get(version.placement):
        return []
    start = start_command(version.placement)
    return [f"no live worker can run it now: it needs one for {version.placement!r}. Start one with: {start}"]
