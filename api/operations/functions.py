"""The operations on functions."""

from __future__ import annotations

from typing import Final

from api.operations.examples import (
    BAD_REQUEST,
    CONFLICT,
    CURL_KEY,
    DIGEST,
    FORBIDDEN,
    FUNCTION,
    IF_MATCH,
    NAME,
    NO_FUNCTION,
    TRY_AGAIN,
    UNAUTHENTICATED,
    VERSION,
)
from api.operations.operation import Access, Operation, Parameter, ResponseDoc, problem_doc
from api.operations.schemas import TEXT, cursor, limit, page, record, ref

LIST_FUNCTIONS: Final = Operation(
    method="GET",
    path="/v1/functions",
    access=Access.READ,
    tag="functions",
    summary="List the deployed functions",
    parameters=(
        Parameter("limit", "query", "functions per page, at most 1000", 100, limit(1000)),
        Parameter("cursor", "query", "`next` of the previous page", "hello", cursor(64)),
    ),
    answers=(
        ResponseDoc(
            200,
            "functions, sorted by name",
            {"functions": [FUNCTION], "next": None},
            schema=page("functions", ref("Version")),
        ),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/functions",
)
GET_FUNCTION: Final = Operation(
    method="GET",
    path="/v1/functions/{name}",
    access=Access.READ,
    tag="functions",
    summary="Show a function",
    description="`state` is `active`; `pending`, with `progress`, while the version's dependencies are resolved or "
    "installed; `failed`, with the resolver's `reason`, if they cannot be installed. Pending and failed versions are "
    "listed in `waiting`. If the latest version has a schedule, `next_run_at` is its next due time.",
    parameters=(NAME, VERSION),
    answers=(
        ResponseDoc(
            200,
            "a version, and the numbers of all versions",
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
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_FUNCTION,
        TRY_AGAIN,
    ),
    curl=f"curl {CURL_KEY} localhost:8000/v1/functions/hello",
)
DEPLOY: Final = Operation(
    method="PUT",
    path="/v1/functions/{name}",
    access=Access.DEPLOY,
    audit="deploy",
    tag="functions",
    summary="Deploy a version",
    description="The body is JSON with the text of one file, a folder as `application/zip`, or its files as "
    "`multipart/form-data` (each part's `filename` is its path; a field `manifest` may hold settings as JSON). "
    "Redeploying unchanged code keeps the current version. If dependencies have to be installed first, `state` is "
    "`pending` and the previous version serves until the new one is `active`. `warnings` lists what the first call "
    "will lack, such as a worker that can run it.",
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
            200, "a new version, or the current one unchanged", FUNCTION | {"changed": True}, schema=ref("Deployed")
        ),
        problem_doc("the body does not describe a function", "bad_request", "source: Field required"),
        UNAUTHENTICATED,
        FORBIDDEN,
        CONFLICT,
        problem_doc("the body is too large", "payload_too_large", "the body is larger than 52428800 bytes"),
        problem_doc(
            "the body has none of the three media types",
            "unsupported_media_type",
            "a deploy is application/json, application/zip or multipart/form-data, not text/plain",
        ),
        problem_doc(
            "the code or the manifest is not valid",
            "invalid_manifest",
            "hello.py:3: invalid syntax",
        ),
        TRY_AGAIN,
    ),
    curl="""jq -Rs '{source: ., filename: "hello.py"}' hello.py | """
    f"curl -X PUT {CURL_KEY} -H 'Content-Type: application/json' -d @- localhost:8000/v1/functions/hello",
)
DELETE_FUNCTION: Final = Operation(
    method="DELETE",
    path="/v1/functions/{name}",
    access=Access.DEPLOY,
    audit="delete",
    tag="functions",
    summary="Delete a function",
    description="Deletes all its versions. Queued jobs end as cancelled; running ones go on.",
    parameters=(NAME, IF_MATCH),
    answers=(
        ResponseDoc(204, "deleted, with all its versions"),
        BAD_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NO_FUNCTION,
        CONFLICT,
        TRY_AGAIN,
    ),
    curl=f"curl -X DELETE {CURL_KEY} localhost:8000/v1/functions/hello",
)

FUNCTIONS: Final = (LIST_FUNCTIONS, GET_FUNCTION, DEPLOY, DELETE_FUNCTION)
