"""Deploying, listing and removing functions, as the documentation shows it.

Knows: its words, parameters, answers. Does not know: how it is done.
"""

from __future__ import annotations

from typing import Final

from api.operations.examples import DIGEST, FUNCTION, NAME, VERSION
from api.operations.form import (
    BAD,
    CHANGED,
    IF_MATCH,
    NO_FUNCTION,
    NO_KEY,
    NO_SCOPE,
    TRY_AGAIN,
    Operation,
    Parameter,
    ResponseDoc,
    not_ok,
)
from api.operations.schemas import TEXT, cursor, limit, page, record, ref

FUNCTIONS: Final = (
    Operation(
        method="GET",
        path="/v1/functions",
        tag="functions",
        summary="What is deployed",
        parameters=(
            Parameter("limit", "query", "how many, at most 1000", 100, limit(1000)),
            Parameter("cursor", "query", "`next` of the page before", "hello", cursor(64)),
        ),
        answers=(
            ResponseDoc(
                200,
                "functions by name",
                {"functions": [FUNCTION], "next": None},
                schema=page("functions", ref("Version")),
            ),
            BAD,
            NO_KEY,
            NO_SCOPE,
            TRY_AGAIN,
        ),
        curl='curl -H "Authorization: Bearer $(cat .sandlot/key)" localhost:8000/v1/functions',
    ),
    Operation(
        method="GET",
        path="/v1/functions/{name}",
        tag="functions",
        summary="One function",
        description="`state` is `active`; of a version whose dependencies are being resolved or installed `pending`, with `progress`; of one "
        "whose dependencies cannot be had `failed`, with the resolver's `reason`. Those two kinds are listed in `waiting`. With a schedule, `next_run_at` is when the latest version is due next.",
        parameters=(NAME, VERSION),
        answers=(
            ResponseDoc(
                200,
                "a version, and the numbers of all",
                FUNCTION
                | {
                    "latest": 3,
                    "revision": "1795406400000000",
                    "versions": [{"version": 3, "digest": DIGEST}],
                    "waiting": [],
                    "aliases": {"prod": {"version": 3}},
                },
                schema=ref("Function"),
            ),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_FUNCTION,
            TRY_AGAIN,
        ),
        curl='curl -H "Authorization: Bearer $(cat .sandlot/key)" localhost:8000/v1/functions/hello',
    ),
    Operation(
        method="PUT",
        path="/v1/functions/{name}",
        tag="functions",
        summary="Deploy a version",
        description="JSON with the text of one file, a folder as `application/zip`, or its files as `multipart/form-data` (each part's "
        "`filename` is its path; a field `manifest` may bring settings as JSON). What was deployed before is the same version again. "
        "With dependencies that are not there yet its `state` is `pending`, and the version before serves until it is `active`. "
        "`warnings` says what the first call will miss, such as a worker that can run it.",
        parameters=(NAME, IF_MATCH),
        body={
            "source": "def handler(event, context):\n    return {'message': f\"Hello, {event['name']}!\"}\n",
            "filename": "hello.py",
            "manifest": {"timeout": "5s"},
        },
        body_schema=record("source", source=TEXT, filename=TEXT, manifest={"type": "object"})
        | {"additionalProperties": False},
        answers=(
            ResponseDoc(
                201, "the function's first version", FUNCTION | {"version": 1, "changed": True}, schema=ref("Deployed")
            ),
            ResponseDoc(
                200, "another version, or the same again", FUNCTION | {"changed": True}, schema=ref("Deployed")
            ),
            not_ok("not a deploy", "bad_request", "source: Field required"),
            NO_KEY,
            NO_SCOPE,
            CHANGED,
            not_ok("too large", "payload_too_large", "the body is larger than 52428800 bytes"),
            not_ok(
                "none of the three forms",
                "unsupported_media_type",
                "a deploy is application/json, application/zip or multipart/form-data, not text/plain",
            ),
            not_ok(
                "it cannot be a function",
                "invalid_manifest",
                "hello.py:3: invalid syntax",
            ),
            TRY_AGAIN,
        ),
        curl="""jq -Rs '{source: ., filename: "hello.py"}' hello.py | curl -X PUT -H "Authorization: Bearer $(cat .sandlot/key)" -H 'Content-Type: application/json' -d @- localhost:8000/v1/functions/hello""",
    ),
    Operation(
        method="DELETE",
        path="/v1/functions/{name}",
        tag="functions",
        summary="Remove a function",
        description="With all its versions. What waits ends as cancelled; what runs goes on.",
        parameters=(NAME, IF_MATCH),
        answers=(
            ResponseDoc(204, "removed, with all its versions"),
            BAD,
            NO_KEY,
            NO_SCOPE,
            NO_FUNCTION,
            CHANGED,
            TRY_AGAIN,
        ),
        curl='curl -X DELETE -H "Authorization: Bearer $(cat .sandlot/key)" localhost:8000/v1/functions/hello',
    ),
)
