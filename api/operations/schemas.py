"""JSON Schemas (2020-12, as OpenAPI 3.1 uses them) of what callers send and read.

Replies may gain fields; callers ignore fields that they do not know. A test sends requests to a
running API and reports replies that do not fit these schemas or have an extra field
(tests/hostile/contract.py).
"""

from __future__ import annotations

from typing import Any, Final

from sandlot.models import JobStatus, OutcomeKind

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}
ANYTHING: Final[Schema] = {}
_MOMENT: Final[Schema] = {"type": "string", "format": "date-time"}
_LATER: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_NAME: Final[Schema] = {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"}
_STATUS: Final[Schema] = {"type": "string", "enum": list(JobStatus)}
_OUTCOME: Final[Schema] = {"type": ["string", "null"], "enum": [*OutcomeKind, None]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def table(values: Schema) -> Schema:
    """Return the schema of an object whose property names are data."""
    return {"type": "object", "additionalProperties": values}


def record(required: str = "", **properties: Schema) -> Schema:
    """Return the schema of an object.

    Args:
        required: names of its properties, separated by spaces; "*" for all of them.
    """
    names = list(properties) if required == "*" else required.split()
    return {"type": "object", "properties": properties} | ({"required": names} if names else {})


def page(name: str, items: Schema, cursor: str = "string") -> Schema:
    """Return the schema of one page of a list; `next` is null on the last page."""
    return record("*", **{name: array(items)}, next={"type": [cursor, "null"]})


_VERSION: Final = {
    "name": TEXT,
    "version": COUNT,
    "digest": TEXT,
    "state": {"type": "string", "enum": ["active", "pending", "failed"]},
    "manifest": {"type": "object"},
    "created_at": _MOMENT,
    "progress": TEXT,
    "reason": TEXT,
}
_VERSION_REQUIRED: Final = "name version digest state manifest created_at"
_JOB: Final = {
    "id": TEXT,
    "function": TEXT,
    "version": COUNT,
    "digest": TEXT,
    "status": _STATUS,
    "attempt": COUNT,
    "created_at": _MOMENT,
    "started_at": _LATER,
    "ended_at": _LATER,
    "outcome": _OUTCOME,
    "last_failure": ref("Failure"),
    "result": ANYTHING,
    "error": ref("FunctionError"),
    "evidence": ref("Evidence"),
    "queue_position": COUNT,
    "eta_s": {"type": "number", "minimum": 0},
    "logs_tail": TEXT,
    "sandbox": {"type": "object"},
    "timings": ref("Timings"),
    "links": ref("Links"),
}
_JOB_REQUIRED: Final = "id function version digest status attempt links"

SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "instance", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "what happened, with which value, and what to do about it"},
            "instance": {"type": "string"},
            "code": {"type": "string", "description": "stable, for programs"},
        },
    },
    "Job": record(_JOB_REQUIRED, **_JOB),
    "DeadLetter": record(_JOB_REQUIRED, **_JOB, event=ANYTHING),
    "Links": record("*", self=TEXT, result=TEXT, logs=TEXT, events=TEXT),
    "Timings": record("*", **dict.fromkeys(("queued", "boot", "import", "run", "settle", "total"), NUMBER)),
    "FunctionError": record("*", errorType=TEXT, errorMessage=TEXT, stackTrace=array(TEXT)),
    "Evidence": record(
        limit=table(NUMBER),
        measured=table(NUMBER),
        signal=TEXT,
        exit_code={"type": "integer"},
        peak_memory_bytes=COUNT,
        cpu_ms=NUMBER,
        stack=array(TEXT),
        detail=TEXT,
    ),
    "Failure": record(
        "attempt outcome", attempt=COUNT, outcome=_OUTCOME, error=ref("FunctionError"), evidence=ref("Evidence")
    ),
    "Version": record(_VERSION_REQUIRED, **_VERSION),
    "Function": record(
        f"{_VERSION_REQUIRED} latest revision versions waiting aliases",
        **_VERSION,
        latest={"type": ["integer", "null"]},
        revision=TEXT,
        versions=array(record("*", version=COUNT, digest=TEXT)),
        waiting=array(ref("Version")),
        aliases=table(ref("Target")),
        next_run_at=_LATER,
    ),
    "Deployed": record(f"{_VERSION_REQUIRED} changed", **_VERSION, changed=FLAG, warnings=array(TEXT)),
    "Target": record("version", version=COUNT, weights=table(NUMBER)),
    "Alias": record("alias version", alias=TEXT, version=COUNT, weights=table(NUMBER)),
    "Secret": record("*", name=TEXT, prefix=TEXT, updated_at=_LATER),
    "Status": record(
        "*",
        queued=COUNT,
        running=COUNT,
        scheduled=COUNT,
        ended=COUNT,
        placements=array(
            record("*", placement=TEXT, queued=COUNT, oldest_wait_s=NUMBER, workers=COUNT, slots=COUNT, busy=COUNT)
        ),
        functions=array(
            record(
                "*",
                function=TEXT,
                queued=COUNT,
                running=COUNT,
                oldest_wait_s=NUMBER,
                ok=COUNT,
                failed=COUNT,
                buckets=array(COUNT),
            )
        ),
        workers=array(record("*", name=TEXT, placements=array(TEXT), slots=COUNT, busy=COUNT)),
        bounds_s=array(NUMBER),
    ),
    "Ready": record("*", status=TEXT, workers=table(COUNT), queued=COUNT, running=COUNT),
}

FUNCTION_NAME: Final = _NAME
JOB_ID: Final[Schema] = {"type": "string", "maxLength": 64}
QUALIFIER: Final[Schema] = {"type": "string", "pattern": r"^([0-9]{1,9}|[a-z][a-z0-9-]{0,62}|\$LATEST)$"}
JOB_STATUS: Final = _STATUS
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
POSITION: Final[Schema] = {"type": "string", "pattern": r"^[a-z_]*\.[0-9]{1,9}\.[0-9]{1,9}$"}
DURATION: Final[Schema] = {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h|d)$"}


def limit(maximum: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": maximum}


def cursor(max_length: int) -> Schema:
    return {"type": "string", "maxLength": max_length}
