"""Secrets, as the documentation shows it.

Knows: its words, parameters, answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.form import BAD, NO_KEY, NO_SCOPE, TRY_AGAIN, Operation, Parameter, ResponseDoc, not_ok
from api.operations.schemas import TEXT, array, record, ref

_NAME: Final = Parameter(
    "secret",
    "path",
    "a secret's name, which is that of the variable",
    "DB_PASSWORD",
    {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"},
)
_SECRET: Final = {"name": "DB_PASSWORD", "prefix": "shop-", "updated_at": "2026-11-23T10:00:00.000Z"}
_NONE: Final = not_ok("no such secret", "secret_not_found", "there is no secret 'DB_PASSWORD'")
_KEY: Final = '-H "Authorization: Bearer $(cat .sandlot/key)"'

SECRETS: Final = (
    Operation(
        method="GET",
        path="/v1/secrets",
        tag="secrets",
        summary="Which secrets there are",
        answers=(
            ResponseDoc(
                200,
                "names, never values",
                {"secrets": [_SECRET]},
                schema=record("secrets", secrets=array(ref("Secret"))),
            ),
            BAD,
            NO_KEY,
            NO_SCOPE,
            TRY_AGAIN,
        ),
        curl=f"curl {_KEY} localhost:8000/v1/secrets",
    ),
    Operation(
        method="GET",
        path="/v1/secrets/{secret}",
        tag="secrets",
        summary="One secret, without its value",
        parameters=(_NAME,),
        answers=(
            ResponseDoc(200, "when it was set, and for whom", _SECRET, schema=ref("Secret")),
            BAD,
            NO_KEY,
            NO_SCOPE,
            _NONE,
            TRY_AGAIN,
        ),
        curl=f"curl {_KEY} localhost:8000/v1/secrets/DB_PASSWORD",
    ),
    Operation(
        method="PUT",
        path="/v1/secrets/{secret}",
        tag="secrets",
        summary="Set a secret",
        description="Functions that name it in `secrets` get it as an environment variable, those whose names do not begin with `prefix` never. "
        "It is encrypted in Redis and cannot be read back.",
        parameters=(_NAME,),
        body={"value": "…", "prefix": "shop-"},
        body_schema=record(
            "value",
            value={"type": "string", "minLength": 1, "maxLength": 4096},
            prefix=TEXT,
        )
        | {"additionalProperties": False},
        answers=(
            ResponseDoc(200, "set", _SECRET, schema=ref("Secret")),
            not_ok("not a secret", "bad_request", "the value of DB_PASSWORD is empty"),
            NO_KEY,
            NO_SCOPE,
            TRY_AGAIN,
        ),
        curl=f"jq -Rs '{{value: .}}' password.txt | curl -X PUT {_KEY} -d @- localhost:8000/v1/secrets/DB_PASSWORD",
    ),
    Operation(
        method="DELETE",
        path="/v1/secrets/{secret}",
        tag="secrets",
        summary="Remove a secret",
        parameters=(_NAME,),
        answers=(ResponseDoc(204, "removed"), BAD, NO_KEY, NO_SCOPE, _NONE, TRY_AGAIN),
        curl=f"curl -X DELETE {_KEY} localhost:8000/v1/secrets/DB_PASSWORD",
    ),
)
