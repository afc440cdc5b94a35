"""The operations on versions and aliases."""

from __future__ import annotations

from typing import Final

from api.operations.examples import (
    BAD_REQUEST,
    CONFLICT,
    CURL_KEY,
    FORBIDDEN,
    FUNCTION,
    IF_MATCH,
    NAME,
    NO_FUNCTION,
    NO_VERSION,
    TRY_AGAIN,
    UNAUTHENTICATED,
)
from api.operations.operation import Access, Operation, Parameter, ResponseDoc, problem_doc
from api.operations.schemas import COUNT, QUALIFIER, limit, page, record, ref, table

_ALIAS: Final = Parameter(
    "alias",
    "path",
    "a name of your choice, or $LATEST",
    "prod",
    {"type": "string", "pattern": r"^([a-z][a-z0-9-]{0,62}|\$LATEST)$"},
)
_SPLIT: Final = {"version": 3, "weights": {"4": 0.1}}

LIST_VERSIONS: Final = Operation(
    method="GET",
    path="/v1/functions/{name}/versions",
    access=Access.READ,
    tag="versions",
    summary="List the versions of a function",
    parameters=(
        NAME,
        Parameter("limit", "query", "versions per page, at most 1000", 100, limit(1000)),
        Parameter("cursor", "query", "`next` of the previous page", 3, COUNT),
    ),
    answers=(
        ResponseDoc(
            200,
            "versions, newest first",
            {"versions": [FUNCTION], "next": None},
            schema=page("versions", ref("Version"), "integer"),
        ),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_FUNCTION,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/functions/hello/versions",
)
GET_BUNDLE: Final = Operation(
    method="GET",
    path="/v1/functions/{name}/versions/{version}/bundle",
    access=Access.READ,
    tag="versions",
    summary="Download a version's code",
    description="Returns a zip with the files and a `function.toml`. Deploying it again yields the same version.",
    parameters=(NAME, Parameter("version", "path", "a version number or an alias", "3", QUALIFIER)),
    answers=(
        ResponseDoc(200, "the zip", "PK…", "application/zip", schema={"contentMediaType": "application/zip"}),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_VERSION,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} -o hello.zip localhost:8000/v1/functions/hello/versions/3/bundle",
)
LIST_ALIASES: Final = Operation(
    method="GET",
    path="/v1/functions/{name}/aliases",
    access=Access.READ,
    tag="versions",
    summary="List the aliases of a function",
    parameters=(NAME,),
    answers=(
        ResponseDoc(
            200,
            "aliases by name",
            {"aliases": {"prod": _SPLIT}},
            schema=record("aliases", aliases=table(ref("Target"))),
        ),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_FUNCTION,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/functions/hello/aliases",
)
GET_ALIAS: Final = Operation(
    method="GET",
    path="/v1/functions/{name}/aliases/{alias}",
    access=Access.READ,
    tag="versions",
    summary="Show an alias",
    parameters=(NAME, _ALIAS),
    answers=(
        ResponseDoc(200, "the alias", {"alias": "prod"} | _SPLIT, schema=ref("Alias")),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_VERSION,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/functions/hello/aliases/prod",
)
MOVE_ALIAS: Final = Operation(
    method="PUT",
    path="/v1/functions/{name}/aliases/{alias}",
    access=Access.DEPLOY,
    audit="alias",
    tag="versions",
    summary="Point an alias at a version",
    description="`weights` sends shares of the calls to other versions; calls with the same `Idempotency-Key` always "
    "go to the same one. A call without a version calls `$LATEST`, so moving `$LATEST` is a rollback.",
    parameters=(NAME, _ALIAS, IF_MATCH),
    body=_SPLIT,
    body_schema=ref("Target") | {"additionalProperties": False},
    answers=(
        ResponseDoc(200, "the alias as it is now", {"alias": "prod"} | _SPLIT, schema=ref("Alias")),
        problem_doc(
            "the body does not describe an alias",
            "bad_request",
            "weights: the shares add up to 1.2, which is more than 1",
        ),
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_VERSION,
        CONFLICT,
        TRY_AGAIN,
    ),
    curl=f"curl -X PUT {CURL_KEY} -d '{{\"version\": 3}}' localhost:8000/v1/functions/hello/aliases/prod",
)
REMOVE_ALIAS: Final = Operation(
    method="DELETE",
    path="/v1/functions/{name}/aliases/{alias}",
    access=Access.DEPLOY,
    audit="alias-delete",
    tag="versions",
    summary="Remove an alias",
    parameters=(NAME, _ALIAS, IF_MATCH),
    answers=(
        ResponseDoc(204, "removed; the versions stay"),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_VERSION,
        CONFLICT,
        TRY_AGAIN,
    ),
    curl=f"curl -X DELETE {CURL_KEY} localhost:8000/v1/functions/hello/aliases/prod",
)

VERSIONS: Final = (LIST_VERSIONS, GET_BUNDLE, LIST_ALIASES, GET_ALIAS, MOVE_ALIAS, REMOVE_ALIAS)
