"""Valid and invalid requests generated from the API's OpenAPI document, and a check of every reply.

Schemathesis generates the requests; a `Scene` creates what an operation needs to succeed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, Final

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS: Final = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
]
PATIENCE_S: Final = 20.0
"""Per reply. The API under test should limit waits to a moment: SANDLOT_WAIT_CAP_S."""
TOLD_CHARACTERS: Final = 1200
_OPEN: Final = "Problem"
"""The one object that has members of its own with each code."""
_SOURCES: Final = {
    "echo": ("def handler(event, context):\n    print('hello')\n    return event\n", {"visibility": "public"}),
    "fails": (
        "def handler(event, context):\n    raise ValueError(event)\n",
        {"retry": {"attempts": 2, "on": ["error"], "backoff": "10ms"}},
    ),
}


class Scene:
    """An API with content: functions, an alias, a secret, successful and failed jobs."""

    def __init__(self, url: str, key: str) -> None:
        self.headers = {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, headers=self.headers, timeout=PATIENCE_S, trust_env=False)
        self._known: list[dict[str, str]] = []
        self._jobs: dict[str, str] = {}

    def names(self) -> list[dict[str, str]]:
        """Return path parameters that exist, recreated if earlier requests removed them."""
        if not self._known:
            self._client.put("/v1/secrets/TOKEN", json={"value": "x"}).raise_for_status()
            self._known = [self._names(name) for name in _SOURCES]
        return self._known

    def _names(self, name: str) -> dict[str, str]:
        source, manifest = _SOURCES[name]
        self._client.put(f"/v1/functions/{name}", json={"source": source, "manifest": manifest}).raise_for_status()
        version = self._client.get(f"/v1/functions/{name}").json()["version"]
        self._client.put(f"/v1/functions/{name}/aliases/prod", json={"version": version}).raise_for_status()
        job_id = self._jobs.get(name) or self._jobs.setdefault(name, self._ended_job(name))
        return {
            "name": name,
            "version": str(version),
            "alias": "prod",
            "secret": "TOKEN",
            "job_id": job_id,
            "path": "a",
        }

    def _ended_job(self, name: str) -> str:
        job = self._client.post(f"/v1/functions/{name}/invoke?async=true").raise_for_status().json()["links"]["self"]
        while not (ended := self._client.get(job, params={"wait": 1}).json())["ended_at"]:
            pass
        return str(ended["id"])

    def forget(self, operation: Any) -> None:
        """This was asked for, and may have removed something."""
        if operation.method in ("put", "delete"):
            self._known = []
        if operation.path.startswith("/v1/dead-letters") and operation.method != "get":
            self._known, self._jobs = [], {}

    def document(self) -> dict[str, Any]:
        """Return the API's OpenAPI document, made strict: an undescribed field is a breach."""
        document: dict[str, Any] = self._client.get("/openapi.json").json()
        for name, schema in document["components"]["schemas"].items():
            if name != _OPEN:
                schema["additionalProperties"] = False
        return document

    def close(self) -> None:
        self._client.close()


def breaches(url: str, key: str, examples: int, *, seed: int, brief: bool = False) -> Iterator[str]:
    """List what the API at `url` did although its document does not describe it.

    Args:
        key: the key of an admin.
        examples: how many requests to generate per operation and way of asking: existing or
            other names, valid or invalid requests, with or without the key.
        brief: ask in fewer ways: always with the key, and only with names that exist.
    """
    with contextlib.closing(Scene(url, key)) as scene:
        config = schemathesis.Config()
        config.projects.default.update(base_url=url)
        schema = schemathesis.openapi.from_dict(scene.document(), config=config)
        callers = [scene.headers] if brief else [scene.headers, {}]
        for number, operation in enumerate(found.ok() for found in schema.get_all_operations()):
            if brief and operation.tags == ["gateway"] and operation.method not in ("get", "post"):
                continue
            for headers, (mode, fixed) in itertools.product(callers, list(_ways(operation, scene, brief, number))):
                yield from _tried(operation, headers, examples, seed, mode, **fixed)
            scene.forget(operation)


def _ways(operation: Any, scene: Scene, brief: bool, number: int) -> Iterator[tuple[GenerationMode, dict[str, Any]]]:
    """To ask for it: how well, and with which path."""
    places = {parameter["in"] for parameter in operation.definition.raw["parameters"]}
    if "path" not in places or not brief:
        yield from ((mode, {}) for mode in GenerationMode)
    if "path" in places:
        names = scene.names()
        for known in [names[number % len(names)]] if brief else names:
            yield GenerationMode.POSITIVE, {"path_parameters": known}
            if places != {"path"} or operation.body:
                yield GenerationMode.NEGATIVE, {"path_parameters": known}


def _tried(
    operation: Any, headers: dict[str, str], examples: int, seed: int, mode: GenerationMode, **fixed: Any
) -> Iterator[str]:
    told: dict[str, None] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(mode, **fixed))
    def attempt(case: Any) -> None:
        try:
            case.validate_response(case.call(headers=headers, timeout=PATIENCE_S), checks=CHECKS)
        except FailureGroup as error:
            told["\n".join(str(failure) for failure in error.exceptions)[:TOLD_CHARACTERS]] = None
        except requests.RequestException as error:
            told[f"{operation.label}: no answer: {error}"] = None

    with contextlib.suppress(Unsatisfiable):  # no invalid request exists for this operation
        attempt()
    yield from (f"{operation.label}: {one}" for one in told)
