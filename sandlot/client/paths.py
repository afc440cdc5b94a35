"""Where things are in the API. Knows: `docs/api.md`, what must be quoted. Does not know: what is done there."""

from __future__ import annotations

from urllib.parse import quote


def function_path(name: str) -> str:
    return f"/v1/functions/{quote(name, safe='')}"


def secret_path(name: str) -> str:
    return f"/v1/secrets/{quote(name, safe='')}"


def invoke_path(name: str) -> str:
    return function_path(name) + "/invoke"


def letter_path(job_id: str) -> str:
    return f"/v1/dead-letters/{quote(job_id, safe='')}"


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
