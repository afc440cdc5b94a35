"""The types in which the operation table is written."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal

import fastapi
import msgspec
from fastapi.params import Param

from api.http.problems import STATUS, TITLE
from api.operations.schemas import TEXT, ref

Json = Any
Location = Literal["path", "query", "header"]

ANY_METHOD: Final = "ANY"
"""The method of an operation that accepts every method. OpenAPI has no word for it."""
_FIELDS: Final = {"path": fastapi.Path, "query": fastapi.Query, "header": fastapi.Header}
_CONSTRAINTS: Final = {"minimum": "ge", "maximum": "le", "maxLength": "max_length"}


class Access(StrEnum):
    """The credential that an operation requires."""

    OPEN = "open"
    CALL = "call"
    """The scope `invoke` on the function, or no key at all if its manifest says it is public."""
    JOB = "job"
    """
    The owner of the job, with `read` or `invoke`. A job submitted without a key is open to every
    caller that knows its id (128 random bits).
    """
    CHANGE_JOB = "change_job"
    """The same, but only with `invoke`."""
    JOBS = "jobs"
    """A key with `read` or `invoke`. Lists show its owner's jobs of functions that it covers."""
    READ = "read"
    DEPLOY = "deploy"


class Header(msgspec.Struct, frozen=True):
    """A header of a reply. `values` lists all its possible values; empty if they are not fixed."""

    name: str
    description: str
    example: str
    values: tuple[str, ...] = ()


class ResponseDoc(msgspec.Struct, frozen=True):
    """One documented reply.

    `example` is a JSON value, or the text of a body of another media type; None for no body.
    """

    status: int
    description: str
    example: Json = None
    media_type: str = "application/json"
    headers: tuple[Header, ...] = ()
    schema: Json = msgspec.field(default_factory=dict)


class Parameter(msgspec.Struct, frozen=True):
    """A path, query or header parameter, with its JSON Schema."""

    name: str
    where: Location
    description: str
    example: Json = None
    schema: Json = msgspec.field(default_factory=TEXT.copy)

    def field(self) -> Param:
        """Return the FastAPI field for a handler's annotation, with the limits of the schema.

        A `pattern` is left to the part that knows the name: an ill-formed name is a name that does
        not exist (404), not a bad request (400).
        """
        limits = {keyword: self.schema[limit] for limit, keyword in _CONSTRAINTS.items() if limit in self.schema}
        if self.schema.get("type") == "number":
            limits["allow_inf_nan"] = False  # JSON has neither
        if self.where == "header":
            limits["alias"] = self.name
        field: Param = _FIELDS[self.where](**limits)
        return field


class Operation(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One method of one path: who may use it, what it reads and how it answers."""

    method: str
    path: str
    """In Starlette's notation, so that a parameter may have a converter: `{path:path}`."""
    access: Access
    tag: str
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Json = None
    """An example of the request's body; None for an operation without one."""
    body_schema: Json = msgspec.field(default_factory=dict)
    answers: tuple[ResponseDoc, ...]
    curl: str
    audit: str = ""
    """The action that the audit log records; empty for an operation that changes nothing."""
    answers_head: bool = False
    """The operation answers HEAD as well as GET. OpenAPI describes only GET."""
    opens_to_metrics_token: bool = False
    """`SANDLOT_METRICS_TOKEN` is accepted instead of an API key."""
    ignores_query: bool = False
    """The query is not the operation's own: a probe's, a scraper's or the called function's."""
    is_fallback: bool = False
    """The operation serves what no route matches, so it has no route itself."""

    @cached_property
    def methods(self) -> tuple[str, ...]:
        return (self.method, "HEAD") if self.answers_head else (self.method,)

    @cached_property
    def documented_path(self) -> str:
        """The path without converters, as OpenAPI writes it."""
        return self.path.replace(":path}", "}")

    @cached_property
    def query_names(self) -> frozenset[str]:
        return frozenset(parameter.name for parameter in self.parameters if parameter.where == "query")

    def field(self, name: str) -> Param:
        """Return the FastAPI field of the parameter with this name.

        Raises:
            StopIteration: the operation has no such parameter.
        """
        return next(parameter for parameter in self.parameters if parameter.name == name).field()


def problem_doc(description: str, code: str, detail: str, **members: Json) -> ResponseDoc:
    """Return the documented problem with this code; status and title are those of real replies."""
    document = {
        "type": f"urn:sandlot:problem:{code}",
        "title": TITLE[code],
        "status": STATUS[code],
        "detail": detail,
        "instance": "/v1/…",
        "code": code,
    }
    return ResponseDoc(STATUS[code], description, document | members, "application/problem+json", schema=ref("Problem"))
