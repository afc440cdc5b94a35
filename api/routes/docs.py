"""/openapi.json and /docs, both written from the operation table.

FastAPI does not write the OpenAPI document: see docs/decisions/0014.
"""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any, Final

import msgspec
from fastapi import Request
from fastapi.responses import HTMLResponse, Response

from api.operations import ANY_METHOD, OPERATIONS, Header, Operation, Parameter, ResponseDoc
from api.operations.schemas import SCHEMAS
from api.operations.system import DOCS, OPENAPI_JSON
from api.responses import JSON, response_of
from api.routing import Handlers

METHODS: Final = ("get", "put", "post", "delete", "patch")
"""The methods that an operation for any method is documented with."""

_INTRODUCTION: Final = (
    "Run functions on machines you own. Every error is a problem document (RFC 9457) with a stable `code`; every reply "
    "has X-Request-Id. Calls of functions that are not public, and everything that is not a call, need "
    "`Authorization: Bearer <key>`."
)


handlers = Handlers()


@handlers.serves(OPENAPI_JSON)
async def openapi_json(request: Request) -> Response:
    return response_of((200, [JSON], _openapi_text(request.app.version)))


@handlers.serves(DOCS)
async def docs(request: Request) -> Response:
    # The page loads nothing: it works on a machine without Internet access, and no other site
    # learns who reads it.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(docs_page(request.app.version), headers={"content-security-policy": policy})


@cache
def _openapi_text(version: str) -> bytes:
    return msgspec.json.encode(openapi_document(version))


def openapi_document(version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all operations."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        for method in METHODS if operation.method == ANY_METHOD else (operation.method.lower(),):
            paths.setdefault(operation.documented_path, {})[method] = _operation(operation, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sandlot", "version": version, "description": _INTRODUCTION},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": SCHEMAS,
        },
        "security": [{"key": []}, {}],
    }


def _operation(operation: Operation, method: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{method}{operation.documented_path.replace('/', '_').replace('{', '').replace('}', '')}",
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description or operation.summary,
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {str(answer.status): _answer(answer) for answer in operation.answers},
    }
    if operation.body is not None:
        described["requestBody"] = {
            "content": {"application/json": {"schema": operation.body_schema, "example": operation.body}}
        }
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.where == "path",
        "schema": parameter.schema,
        "example": parameter.example,
    }


def _answer(answer: ResponseDoc) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {header.name: _header(header) for header in answer.headers}
    if answer.example is None:
        return described
    return described | {"content": {answer.media_type: {"schema": answer.schema, "example": answer.example}}}


def _header(header: Header) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if header.values:
        schema["enum"] = list(header.values)
    return {"description": header.description, "required": True, "schema": schema, "example": header.example}


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,pre{font:13px/1.45 ui-monospace,monospace;background:#f4f4f4;border-radius:4px}code{padding:.1em .3em}"
    "pre{padding:.7em;overflow:auto}details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}"
    "summary{cursor:pointer}b.m{display:inline-block;min-width:4.5em;color:#06c}table{border-collapse:collapse}"
    "td{padding:.15em .8em .15em 0;vertical-align:top}h2{margin-top:2rem;text-transform:capitalize}"
)


@cache
def docs_page(version: str) -> str:
    """Return one page of HTML without scripts."""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sandlot API</title><style>{_STYLE}</style>',
        f"<h1>Sandlot {escape(version)}</h1><p>{_inline(_INTRODUCTION)} For programs: <a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for tag in dict.fromkeys(operation.tag for operation in OPERATIONS):
        parts.append(f"<h2>{tag}</h2>")
        parts += [_section(operation) for operation in OPERATIONS if operation.tag == tag]
    return "\n".join(parts)


def _section(operation: Operation) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter.name)}</code><td>{parameter.where}<td>{_inline(parameter.description)}<td><code>{escape(str(parameter.example))}</code>"
        for parameter in operation.parameters
    )
    answers = "".join(
        f"<h4>{answer.status}: {escape(answer.description)}</h4>{_headers(answer.headers)}{_example(answer.example)}"
        for answer in operation.answers
    )
    return (
        f'<details><summary><b class="m">{operation.method}</b> <code>{escape(operation.documented_path)}</code> {escape(operation.summary)}</summary>'
        f"<p>{_inline(operation.description)}</p><pre>{escape(operation.curl)}</pre><table>{rows}</table>{answers}</details>"
    )


def _headers(headers: tuple[Header, ...]) -> str:
    rows = "".join(
        f"<tr><td><code>{header.name}: {escape(header.example)}</code><td>{_inline(header.description)}"
        for header in headers
    )
    return f"<table>{rows}</table>" if rows else ""


def _example(example: Any) -> str:  # noqa: ANN401 - any JSON value
    if example is None:
        return ""
    text = example if isinstance(example, str) else msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
    return f"<pre>{escape(text)}</pre>"


def _inline(text: str) -> str:
    """Escape text and turn `code` in backquotes into elements."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
