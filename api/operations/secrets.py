"""The operations on secrets."""

from __future__ import annotations

from typing import Final

from api.operations.examples import BAD_REQUEST, CURL_KEY, FORBIDDEN, TRY_AGAIN, UNAUTHENTICATED
from api.operations.operation import Access, Operation, Parameter, ResponseDoc, problem_doc
from api.operations.schemas import TEXT, array, record, ref

_NAME: Final = Parameter(
    "secret",
    "path",
    "the secret's name, which is also the name of the environment variable",
    "DB_PASSWORD",
    {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"},
)
_SECRET: Final = {"name": "DB_PASSWORD", "prefix": "shop-", "updated_at": "2026-11-23T10:00:00.000Z"}
_NO_SECRET: Final = problem_doc("no such secret", "secret_not_found", "no secret 'DB_PASSWORD' exists")

LIST_SECRETS: Final = Operation(
    method="GET",
    path="/v1/secrets",
    access=Access.DEPLOY,
    tag="secrets",
    summary="List the secrets",
    answers=(
        ResponseDoc(
            200,
            "names, never values",
            {"secrets": [_SECRET]},
            schema=record("secrets", secrets=array(ref("Secret"))),
        ),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/secrets",
)
GET_SECRET: Final = Operation(
    method="GET",
    path="/v1/secrets/{secret}",
    access=Access.DEPLOY,
    tag="secrets",
    summary="Show a secret, without its value",
    parameters=(_NAME,),
    answers=(
        ResponseDoc(200, "when it was set, and for which functions", _SECRET, schema=ref("Secret")),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        _NO_SECRET,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/secrets/DB_PASSWORD",
)
SET_SECRET: Final = Operation(
    method="PUT",
    path="/v1/secrets/{secret}",
    access=Access.DEPLOY,
    audit="secret",
    tag="secrets",
    summary="Set a secret",
    description="Functions that list it in `secrets` receive it as an environment variable, unless their names do "
    "not begin with `prefix`. It is encrypted in Redis and cannot be read back.",
    parameters=(_NAME,),
    body={"value": "…", "prefix": "shop-"},
    body_schema=record(
        "value",
        value={"type": "string", "minLength": 1, "maxLength": 4096},
        prefix=TEXT,
    )
    | {"additionalProperties": False},
    answers=(
        ResponseDoc(200, "the secret is set", _SECRET, schema=ref("Secret")),
        problem_doc("the body does not describe a secret", "bad_request", "the value of DB_PASSWORD is empty"),
        UNAUTHENTICATED,
        FORBIDDEN,
        TRY_AGAIN,
    ),
    curl=f"jq -Rs '{{value: .}}' password.txt | curl -X PUT {CURL_KEY} -d @- localhost:8000/v1/secrets/DB_PASSWORD",
)
DELETE_SECRET: Final = Operation(
    method="DELETE",
    path="/v1/secrets/{secret}",
    access=Access.DEPLOY,
    audit="secret-delete",
    tag="secrets",
    summary="Delete a secret",
    parameters=(_NAME,),
    answers=(
        ResponseDoc(204, "the secret is deleted"),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        _NO_SECRET,
        TRY_AGAIN,
    ),
    curl=f"curl -X DELETE {CURL_KEY} localhost:8000/v1/secrets/DB_PASSWORD",
)

SECRETS: Final = (LIST_SECRETS, GET_SECRET, SET_SECRET, DELETE_SECRET)
