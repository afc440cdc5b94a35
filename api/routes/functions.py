"""/v1/functions: deploy, list, show and delete functions.

A deploy is JSON with the text of one file, a zip, or multipart files. Reading one may take seconds,
so it runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.dependencies import KeyDep, QueueDep, RegistryDep, RevisionDep, ServicesDep
from api.documents import Document, alias_document, iso, unready_document, version_document
from api.http.body import Part, read_body, read_multipart
from api.http.conditional import etag
from api.middleware.audit import DIGEST
from api.operations.functions import DELETE_FUNCTION, DEPLOY, GET_FUNCTION, LIST_FUNCTIONS
from api.responses import json_reply, response_of
from api.routing import Handlers
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
from sandlot.strict_json import check_json

DEPLOY_LIMIT_BYTES: Final = 50 * 1024 * 1024
"""
The largest body of a deploy, whatever its form. `sandlot.functions.bundle` limits the size of an
unpacked archive.
"""

handlers = Handlers()


class DeployBody(BaseModel):
    """A deploy of one source file. Keys in `manifest` override those in the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the text of the file")
    filename: str | None = Field(
        None, description="its name, which selects the runtime (main.py, index.mjs); default: Python"
    )
    manifest: dict[str, Any] | None = Field(None, description='as in the source: {"timeout": "5s", "memory": "256MiB"}')


def deploy_reader(content_type: str, node: Path | None) -> Callable[[str, bytes], tuple[Bundle, Manifest]]:
    """Return the function that reads a body of this type, given the function's name.

    Raises:
        UnsupportedMediaType: a deploy cannot have this type.
    """
    media_type = content_type.split(";")[0].strip().lower()
    if media_type == "application/json":
        return lambda name, body: _read_json_deploy(name, body, node)
    if media_type == "application/zip":
        return lambda _, body: read_archive(body, node=node)
    if media_type == "multipart/form-data":
        return lambda name, body: _read_multipart_deploy(
            name, read_multipart(content_type, body, FILES_LIMIT + 1), node
        )
    raise UnsupportedMediaType(
        f"a deploy is application/json, application/zip or multipart/form-data, not {media_type[:80]}"
    )


def _read_json_deploy(name: str, body: bytes, node: Path | None) -> tuple[Bundle, Manifest]:
    try:
        check_json(body)
        deploy = DeployBody.model_validate_json(body)
    except InvalidJson as error:
        raise InvalidJson(f"the body, which describes the function, is {error.message}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise CallerError(
            f'{where}: {first["msg"]}; a deploy is {{"source": "…", "filename": "main.py", "manifest": {{…}}}}'
        ) from None
    return read_source(name, deploy.filename, deploy.source, deploy.manifest, node=node)


def _read_multipart_deploy(name: str, parts: list[Part], node: Path | None) -> tuple[Bundle, Manifest]:
    """Read files, whose names are paths in the function's folder, and a field `manifest`.

    A single file that is a zip is read as an archive.
    """
    manifest: dict[str, Any] = {}
    for field in parts:
        if field.filename:
            continue
        if field.name != "manifest":
            raise CallerError(
                f"{field.name[:80]!r} is not a field of a deploy; send files and, optionally, a field manifest"
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


@handlers.serves(LIST_FUNCTIONS)
async def list_functions(
    registry: RegistryDep,
    key: KeyDep,
    limit: Annotated[int, LIST_FUNCTIONS.field("limit")] = 100,
    cursor: Annotated[str, LIST_FUNCTIONS.field("cursor")] = "",
) -> Response:
    page = await registry.list(limit, cursor)
    listed = [_listed_document(function) for function in page.functions]
    shown = [document for document in listed if key is None or document["name"].startswith(key.prefix)]
    return response_of(json_reply(200, {"functions": shown, "next": page.next}))


@handlers.serves(GET_FUNCTION)
async def get_function(
    name: str,
    registry: RegistryDep,
    queue: QueueDep,
    version: Annotated[str | None, GET_FUNCTION.field("version")] = None,
) -> Response:
    described = await registry.describe(name)
    shown = await _shown_version(registry, described, name, version)
    versions = [{"version": kept.number, "digest": kept.digest} for kept in described.versions]
    aliases = {alias: alias_document(target) for alias, target in described.aliases.items()}
    document = shown | {
        "latest": None if described.latest is None else described.latest.number,
        "revision": described.revision,
        "versions": versions,
        "waiting": [await _progress(registry, waiting) for waiting in described.pending],
        "aliases": aliases,
    }
    schedule = None if described.latest is None else described.latest.manifest.cron_schedule()
    if schedule is not None:
        document["next_run_at"] = iso(schedule.next_tick_ms(queue.now_ms()))
    return response_of(json_reply(200, document, etag(described.revision)))


@handlers.serves(DEPLOY)
async def deploy(request: Request, name: str, key: KeyDep, revision: RevisionDep, services: ServicesDep) -> Response:
    headers = dict(request.scope["headers"])
    content_type = headers.get(b"content-type", b"application/json").decode("latin-1")
    read = deploy_reader(content_type, find_node(services.settings.node))
    body = await read_body(request.scope, request.receive, headers, DEPLOY_LIMIT_BYTES)
    async with services.deploy_slots:
        # In a thread: a node process checks Node files, and archives are unpacked.
        bundle, manifest = await asyncio.to_thread(read, name, body)
        deployed = await services.registry.deploy(
            name, bundle, manifest, revision=revision, owner=key.owner if key else ""
        )
    await services.queue.close_breaker(name)
    request.scope[DIGEST] = deployed.version.digest
    document = version_document(deployed.version) | {"changed": deployed.changed}
    if not deployed.active:
        document["state"] = "pending"
    warnings = await _warnings(deployed.version, services.queue, services.secrets)
    if warnings:
        document["warnings"] = warnings
    location = (b"location", f"/v1/functions/{name}".encode())
    return response_of(json_reply(201 if deployed.created else 200, document, [location, *etag(deployed.revision)]))


@handlers.serves(DELETE_FUNCTION)
async def delete_function(name: str, revision: RevisionDep, registry: RegistryDep, queue: QueueDep) -> Response:
    await registry.delete(name, revision=revision)
    await queue.cancel_queued(name)
    await queue.close_breaker(name)
    return response_of((204, [], b""))


async def _shown_version(registry: Registry, described: FunctionDetails, name: str, qualifier: str | None) -> Document:
    """Return the requested version as a document.

    Without a qualifier that is the latest version, or the newest unready one if none is ready yet.
    """
    if qualifier is None and described.latest is not None:
        return version_document(described.latest)
    for waiting in described.pending:
        if qualifier in (None, str(waiting.version.number)):
            return await _progress(registry, waiting)
    return version_document(await registry.resolve(name, qualifier or LATEST))


async def _progress(registry: Registry, waiting: PendingVersion) -> Document:
    now = await registry.pending(waiting.version.function, waiting.version.number)
    return unready_document(now or waiting)


def _listed_document(function: Version | PendingVersion) -> Document:
    return version_document(function) if isinstance(function, Version) else unready_document(function)


async def _warnings(version: Version, queue: Queue, secrets: SecretStore) -> list[str]:
    """List what the first call of a valid version will lack."""
    missing = await secrets.missing(version.function, version.manifest.secrets)
    unset = [f"the secret {name} is not set for it. Set it with: sandlot secret set {name}" for name in missing]
    return unset + await _worker_warnings(version, queue)


async def _worker_warnings(version: Version, queue: Queue) -> list[str]:
    status = await queue.status()
    if not status.reachable or status.workers.get(version.placement):
        return []
    start = start_command(version.placement)
    return [f"no live worker can run it now: it needs one for {version.placement!r}. Start one with: {start}"]
