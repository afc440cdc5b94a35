"""/v1/functions: what is deployed; deploy another version; remove.

Knows: the routes, revisions as ETags. Does not know: the forms of a deploy, what makes a function valid, how it is stored.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.audit import DIGEST
from api.auth import key_of
from api.body import read_body
from api.deploys import DEPLOY_LIMIT_BYTES, reader_of
from api.documents import Document, alias_document, iso, version_document, waiting_document
from api.replies import json_reply, response_of
from api.revisions import etag, read_if_match
from api.wishes import read_query
from sandlot.functions import Described, Registry, Version, Waiting, find_node
from sandlot.jobs import Queue
from sandlot.models import LATEST
from sandlot.placement import start_command
from sandlot.secret_store import SecretStore
from sandlot.settings import Settings

_NOTHING: Final[frozenset[str]] = frozenset()
_DEPLOYS_AT_ONCE: Final = 2
"""One may hold some 600 MiB while it is unpacked, packed and stored; the others wait with their bodies."""


def add_routes(routes: APIRouter, registry: Registry, queue: Queue, vault: SecretStore, settings: Settings) -> None:
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
            "waiting": [await _progress(registry, waiting) for waiting in described.waiting],
            "aliases": aliases,
        }
        when = None if described.latest is None else described.latest.manifest.when()
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
        await queue.mend(name)
        request.scope[DIGEST] = deployed.version.digest
        document = version_document(deployed.version) | {"changed": deployed.changed}
        if not deployed.active:
            document["state"] = "pending"
        warnings = await _warnings(deployed.version, queue, vault)
        if warnings:
            document["warnings"] = warnings
        location = (b"location", f"/v1/functions/{name}".encode())
        return response_of(json_reply(201 if deployed.created else 200, document, [location, *etag(deployed.revision)]))

    @routes.delete("/v1/functions/{name}")
    async def delete_function(request: Request, name: str) -> Response:
        """Remove a function with all its versions; what is queued ends as cancelled, what runs goes on."""
        read_query(request.scope, _NOTHING)
        await registry.delete(name, revision=read_if_match(dict(request.scope["headers"])))
        await queue.withdraw(name)
        await queue.mend(name)
        return response_of((204, [], b""))


async def _shown(registry: Registry, described: Described, name: str, qualifier: str | None) -> Document:
    """The version that was asked for; without one the latest, or the newest that waits where none is complete yet."""
    if qualifier is None and described.latest is not None:
        return version_document(described.latest)
    for waiting in described.waiting:
        if qualifier in (None, str(waiting.version.number)):
            return await _progress(registry, waiting)
    return version_document(await registry.resolve(name, qualifier or LATEST))


async def _progress(registry: Registry, waiting: Waiting) -> Document:
    now = await registry.waiting(waiting.version.function, waiting.version.number)
    return waiting_document(now or waiting)


def _listed_document(function: Version | Waiting) -> Document:
    return version_document(function) if isinstance(function, Version) else waiting_document(function)


async def _warnings(version: Version, queue: Queue, vault: SecretStore) -> list[str]:
    """What is not wrong with a deploy, but will be with the first call."""
    missing = await vault.missing(version.function, version.manifest.secrets)
    unset = [f"the secret {name} is not there for it. Set it with: sandlot secret set {name}" for name in missing]
    return unset + await _without_worker(version, queue)


async def _without_worker(version: Version, queue: Queue) -> list[str]:
    status = await queue.status()
    if not status.reachable or status.workers.get(version.placement):
        return []
    start = start_command(version.placement)
    return [f"no live worker can run it now: it needs one for {version.placement!r}. Start one with: {start}"]
