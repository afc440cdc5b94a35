"""Versions and aliases, as the documentation shows it.

Knows: its words, parameters, answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.examples import FUNCTION, NAME
from api.operations.form import (
    BAD,
    CHANGED,
    IF_MATCH,
    NO_FUNCTION,
    NO_KEY,
    NO_SCOPE,
    NO_VERSION,
    TRY_AGAIN,
    Operation,
    Parameter,
    ResponseDoc,
    not_ok,
)
from api.operations.schemas import COUNT, QUALIFIER, limit, page, record, ref, table

_ALIAS: Final = Parameter(
    "alias",
    "path",
    "a name of your own, or $LATEST",
    "prod",
    {"type": "string", "pattern": r"^([a-z][a-z0-9-]{0,62}|\$LATEST)$"},
)
_SHARED: Final = {"version": 3, "weights": {"4": 0.1}}
_KEY: Final = '-H "Authorization: Bearer $(cat .sandlot/key)"'

VERSIONS: Final = (
    Operation(
        method="GET",
        path="/v1/functions/{name}/versions",
        tag="versions",
        summary="The versions of a function",
        parameters=(
            NAME,
            Parameter("limit", "query", "how many, at most 1000", 100, limit(1000)),
            Parameter("cursor", "query", "`next` of the page before", 3, COUNT),
        ),
        answers=(
            ResponseDoc(
                200,
                "versions, newest first",
                {"versions": [FUNCTION], "next": None},
                schema=page("versions", ref("Version"), "integer"),
            ),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_FUNCTION,
            TRY_AGAIN,
        ),
        curl=f"curl {_KEY} localhost:8000/v1/functions/hello/versions",
    ),
    Operation(
        method="GET",
        path="/v1/functions/{name}/versions/{version}/bundle",
        tag="versions",
        summary="A version's code",
        description="A zip with the files and a `function.toml`. Deployed again, it is the same version.",
        parameters=(NAME, Parameter("version", "path", "a number, or an alias", "3", QUALIFIER)),
        answers=(
            ResponseDoc(200, "the zip", "PK…", "application/zip", schema={"contentMediaType": "application/zip"}),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_VERSION,
            TRY_AGAIN,
        ),
        curl=f"curl {_KEY} -o hello.zip localhost:8000/v1/functions/hello/versions/3/bundle",
    ),
    Operation(
        method="GET",
        path="/v1/functions/{name}/aliases",
        tag="versions",
        summary="The aliases of a function",
        parameters=(NAME,),
        answers=(
            ResponseDoc(
                200,
                "aliases by name",
                {"aliases": {"prod": _SHARED}},
                schema=record("aliases", aliases=table(ref("Target"))),
            ),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_FUNCTION,
            TRY_AGAIN,
        ),
        curl=f"curl {_KEY} localhost:8000/v1/functions/hello/aliases",
    ),
    Operation(
        method="GET",
        path="/v1/functions/{name}/aliases/{alias}",
        tag="versions",
        summary="What an alias means",
        parameters=(NAME, _ALIAS),
        answers=(
            ResponseDoc(200, "the alias", {"alias": "prod"} | _SHARED, schema=ref("Alias")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_VERSION,
            TRY_AGAIN,
        ),
        curl=f"curl {_KEY} localhost:8000/v1/functions/hello/aliases/prod",
    ),
    Operation(
        method="PUT",
        path="/v1/functions/{name}/aliases/{alias}",
        tag="versions",
        summary="Move an alias",
        description="`weights` sends shares of the calls to other versions; calls with the same `Idempotency-Key` always go to the same one. "
        "Moving `$LATEST` is a rollback: it is what a call without a version means.",
        parameters=(NAME, _ALIAS, IF_MATCH),
        body=_SHARED,
        body_schema=ref("Target") | {"additionalProperties": False},
        answers=(
            ResponseDoc(200, "the alias as it is now", {"alias": "prod"} | _SHARED, schema=ref("Alias")),
            not_ok("not an alias", "bad_request", "weights: the shares add up to 1.2, which is more than 1"),
            NO_KEY,
            NO_SCOPE,
            NO_VERSION,
            CHANGED,
            TRY_AGAIN,
        ),
        curl=f"curl -X PUT {_KEY} -d '{{\"version\": 3}}' localhost:8000/v1/functions/hello/aliases/prod",
    ),
    Operation(
        method="DELETE",
        path="/v1/functions/{name}/aliases/{alias}",
        tag="versions",
        summary="Remove an alias",
        parameters=(NAME, _ALIAS, IF_MATCH),
        answers=(ResponseDoc(204, "removed; the versions stay"), BAD, NO_KEY, NO_SCOPE, NO_VERSION, CHANGED, TRY_AGAIN),
        curl=f"curl -X DELETE {_KEY} localhost:8000/v1/functions/hello/aliases/prod",
    ),
)
