"""Deploying, listing, describing and removing functions over HTTP, and what a deploy that is none is told."""

import importlib
import io
import json
import pkgutil
import zipfile

import httpx
import pytest

import api as api_package
import sandlot
import worker
from api.http.problems import CODE_OF_OUTCOME, STATUS, TITLE
from sandlot.errors import QueueUnavailable, SandlotError, by_code
from sandlot.models import OutcomeKind
from sandlot.redis.pipeline import Unreachable
from tests.unit.api.conftest import FakeQueue

SOURCE = "def handler(event, context):\n    return event\n"


async def test_a_first_deploy_is_201_and_the_next_200(admin: httpx.AsyncClient) -> None:
    first = await admin.put("/v1/functions/new-one", json={"source": SOURCE})
    second = await admin.put("/v1/functions/new-one", json={"source": SOURCE, "manifest": {"timeout": "2s"}})
    assert (first.status_code, first.json()["version"], first.headers["location"]) == (201, 1, "/v1/functions/new-one")
    assert (second.status_code, second.json()["version"]) == (200, 2)
    assert second.json()["state"] == "active"
    assert len(second.json()["digest"]) == 64


async def test_a_folder_is_deployed_as_a_zip(admin: httpx.AsyncClient) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder:
        folder.writestr("main.py", SOURCE)
    reply = await admin.put(
        "/v1/functions/zipped", content=archive.getvalue(), headers={"content-type": "application/zip"}
    )
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code", "word"),
    [
        (b"{", "application/json", 400, "invalid_json", "describes the function"),
        (b"[]", "application/json", 400, "bad_request", "a deploy is"),
        (b"{}", "application/json", 400, "bad_request", "source"),
        (b'{"source": "", "sauce": 1}', "application/json", 400, "bad_request", "sauce"),
        (b'{"source": "def ("}', "application/json", 422, "invalid_manifest", "line"),
        (
            b'{"source": "def handler(e, c): 0", "manifest": {"timeot": "5s"}}',
            "application/json",
            422,
            "invalid_manifest",
            "timeot",
        ),
        (b'{"source": "x", "filename": "../x.py"}', "application/json", 422, "invalid_manifest", "../x.py"),
        (b"PK nonsense", "application/zip", 422, "invalid_manifest", "archive"),
        (b"", "text/plain", 415, "unsupported_media_type", "text/plain"),
    ],
)
async def test_a_function_that_cannot_be_deployed_is_refused_with_the_reason(
    admin: httpx.AsyncClient, body: bytes, media_type: str, status: int, code: str, word: str
) -> None:
    reply = await admin.put("/v1/functions/new-one", content=body, headers={"content-type": media_type})
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    if word != "line":
        assert word in reply.json()["detail"]


async def test_a_platform_bug_is_a_problem_document_on_every_route(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise LookupError("password=hunter2")

    monkeypatch.setattr("api.routes.functions.read_archive", explode)
    reply = await admin.put("/v1/functions/hello", content=b"PK", headers={"content-type": "application/zip"})
    assert (reply.status_code, reply.headers["content-type"]) == (500, "application/problem+json")
    assert reply.json()["code"] == "internal_error"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert "hunter2" not in reply.text


async def test_functions_are_listed_in_pages(admin: httpx.AsyncClient) -> None:
    first = (await admin.get("/v1/functions?limit=1")).json()
    assert ([function["name"] for function in first["functions"]], first["next"]) == (["hello"], "hello")
    second = (await admin.get("/v1/functions?limit=1&cursor=hello")).json()
    assert ([function["name"] for function in second["functions"]], second["next"]) == (["secret"], None)


async def test_a_function_is_described_with_its_versions(admin: httpx.AsyncClient) -> None:
    described = (await admin.get("/v1/functions/hello?version=1")).json()
    assert (described["version"], described["latest"]) == (1, 2)
    assert [version["version"] for version in described["versions"]] == [2, 1]
    assert described["manifest"]["timeout"] == "5s"
    assert (await admin.get("/v1/functions/hello?version=9")).json()["code"] == "version_not_found"
    assert (await admin.get("/v1/functions/nope")).json()["code"] == "function_not_found"


async def test_a_removed_function_is_gone(admin: httpx.AsyncClient) -> None:
    reply = await admin.delete("/v1/functions/hello")
    assert (reply.status_code, reply.content, "content-length" in reply.headers) == (204, b"", False)
    assert (await admin.delete("/v1/functions/hello")).status_code == 404
    assert (await admin.post("/v1/functions/hello/invoke")).json()["code"] == "function_not_found"


@pytest.mark.parametrize("query", ["?limit=0", "?limit=x", "?limit=1001"])
async def test_a_query_that_means_nothing_is_refused(admin: httpx.AsyncClient, query: str) -> None:
    reply = await admin.get(f"/v1/functions{query}")
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


async def test_health_and_readiness(anyone: httpx.AsyncClient, queue: FakeQueue) -> None:
    from sandlot.jobs import QueueStatus

    assert (await anyone.get("/healthz")).json() == {"status": "alive"}
    assert (await anyone.get("/readyz")).json() == {
        "status": "ready",
        "workers": {"python": 1},
        "queued": 0,
        "running": 0,
    }
    queue.live = QueueStatus(reachable=True, workers={"python": 0})
    assert (await anyone.get("/readyz")).json()["code"] == "no_worker"
    queue.live = QueueStatus(reachable=False)
    assert (await anyone.get("/readyz")).json()["code"] == "queue_unavailable"
    assert (await anyone.get("/healthz")).status_code == 200


async def test_the_documentation_shows_every_route_with_an_example(anyone: httpx.AsyncClient) -> None:
    from api.operations import OPERATION_AT

    document = (await anyone.get("/openapi.json")).json()
    shown = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    for method, path in OPERATION_AT:
        # HEAD is described where GET is.
        assert ("GET" if method in ("ANY", "HEAD") else method, path.replace("{path:path}", "{path}")) in shown
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                assert status in ("204", "304") or next(iter(answer["content"].values()))["example"] is not None
    page = (await anyone.get("/docs")).text
    assert "/v1/functions/{name}/invoke" in page
    assert "<script" not in page


def every_error() -> list[type[SandlotError]]:
    """Of all modules of the three packages: a class is known to its parent only once its module is imported."""
    for package in (sandlot, api_package, worker):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = [SandlotError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def test_every_error_has_a_status_and_a_title() -> None:
    defined = [kind for kind in every_error() if "code" in vars(kind)]
    codes = [kind.code for kind in defined]
    assert sorted(set(codes)) == sorted(codes), "one code, one class"
    assert by_code() == dict(zip(codes, defined, strict=True))
    of_commands = {kind.code for kind in defined if kind.__module__.startswith("sandlot.cli.")}
    assert of_commands == {"child_ended"}, "what only a command raises is never a reply"
    assert set(codes) - of_commands <= set(STATUS)
    assert not of_commands & set(STATUS)
    assert set(CODE_OF_OUTCOME.values()) <= set(STATUS) & set(TITLE)
    assert set(CODE_OF_OUTCOME) == set(OutcomeKind) - {OutcomeKind.OK}


def test_a_code_is_read_as_the_class_that_defines_it() -> None:
    """`Unreachable` is a QueueUnavailable with the same code, and cannot be made from a reply alone."""
    assert issubclass(Unreachable, QueueUnavailable)
    assert by_code()[Unreachable.code] is QueueUnavailable


async def test_an_example_in_the_documentation_is_a_real_reply(anyone: httpx.AsyncClient) -> None:
    from api.operations import OPERATIONS

    job_id = (await anyone.post("/v1/functions/hello/invoke")).headers["x-job-id"]
    real = (await anyone.get(f"/v1/jobs/{job_id}")).json()
    (operation,) = [shown for shown in OPERATIONS if (shown.method, shown.path) == ("GET", "/v1/jobs/{job_id}")]
    shown = json.loads(json.dumps(operation.answers[0].example))
    assert set(shown) - {"result"} <= set(real)


@pytest.mark.parametrize("path", ["/v1/functions", "/v1/functions/hello/versions"])
async def test_a_misspelt_parameter_is_refused_and_not_ignored(admin: httpx.AsyncClient, path: str) -> None:
    reply = await admin.get(path, params={"limits": 3})
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert (await admin.get(path, params={"limit": 3})).status_code == 200
