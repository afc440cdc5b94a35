"""The forms that a deploy may have over HTTP: JSON with one file's text, a zip, multipart files.

Knows: media types, fields. Does not know: what makes a function valid, routes.
Everything here may take seconds and runs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.multipart import Part, read_multipart
from sandlot.errors import CallerError, InvalidJson, UnsupportedMediaType
from sandlot.functions import Bundle, Manifest, check_names, read_archive, read_files, read_source
from sandlot.functions.bundle import FILES_LIMIT
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
