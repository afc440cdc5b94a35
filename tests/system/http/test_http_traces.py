"""One trace from the caller through HTTP, queue and sandbox, as a collector receives it.

Log lines name the job.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.system.http.conftest import Part, Stack
from tests.waiting import HANG_S, until

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WaitUntil = Callable[[Callable[[], object]], None]


class Collector:
    """An OTLP/HTTP receiver on loopback."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]

    def of(self, trace_id: str) -> dict[str, tuple[str, Span]]:
        """The spans of one trace by name, with the service each is from."""
        return {span.name: (service, span) for service, span in list(self.spans) if span.trace_id.hex() == trace_id}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


class TracedApi(NamedTuple):
    """An API and the only worker that runs what it submits."""

    api: Part
    worker: Part


@pytest.fixture(scope="module")
def traced(stack: Stack, collector: Collector) -> Iterator[TracedApi]:
    """The API's part; a worker with the tag `traced` runs what it submits. Both log everything."""
    settings = {"SANDLOT_OTLP_URL": collector.url, "SANDLOT_LOG_LEVEL": "debug"}
    api, url = stack.start_api(**settings, SANDLOT_ACCESS_LOG="true")
    worker = stack.start("worker", **settings, SANDLOT_TAGS="traced")
    worker.event("worker started")
    api.url = url
    with stack.client(url=url) as admin:
        source = "def handler(event, context):\n    return 1 / event and context.traceparent\n"
        body = {"source": source, "filename": "traced.py", "manifest": {"visibility": "public", "tags": ["traced"]}}
        assert admin.put("/v1/functions/traced", json=body).status_code == 201
    yield TracedApi(api, worker)
    worker.stop()
    api.stop()


def call(traced: TracedApi, event: object, path: str = "/v1/functions/traced/invoke", **headers: str) -> httpx.Response:
    return httpx.post(f"{traced.api.url}{path}", json=event, headers=headers, timeout=HANG_S, trust_env=False)


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_one_trace_spans_the_caller_and_the_function(traced: TracedApi, collector: Collector) -> None:
    reply = call(traced, 1, traceparent=f"00-{TRACE}-{CALLER}-01")
    assert reply.status_code == 200
    names = {"POST /v1/functions/{name}/invoke", "invoke traced", "queue", "boot", "import", "run"}
    until(lambda: names <= set(collector.of(TRACE)))
    spans = collector.of(TRACE)
    assert set(spans) == names
    (api, http), (worker, attempt) = spans["POST /v1/functions/{name}/invoke"], spans["invoke traced"]
    assert (api, worker) == ("sandlot-api", "sandlot-worker")
    assert (http.parent_span_id.hex(), attempt.parent_span_id) == (CALLER, http.span_id)
    assert reply.json() == f"00-{TRACE}-{attempt.span_id.hex()}-01", "what the function was handed"
    job_id = reply.headers["x-job-id"]
    assert attributes(http)["sandlot.job_id"] == attributes(attempt)["sandlot.job_id"] == job_id
    assert attributes(http)["http.response.status_code"] == 200
    assert (attributes(attempt)["sandlot.outcome"], attributes(attempt)["faas.coldstart"]) == ("ok", True)
    stages = [spans[name][1] for name in ("queue", "boot", "import", "run")]
    assert {stage.parent_span_id for stage in stages} == {attempt.span_id}
    assert [stage.start_time_unix_nano for stage in stages[1:]] == sorted(s.start_time_unix_nano for s in stages[1:])
    assert attempt.start_time_unix_nano <= stages[0].start_time_unix_nano


def test_a_failed_call_is_a_failed_span(traced: TracedApi, collector: Collector) -> None:
    trace = TRACE.replace("0af", "1af")
    assert call(traced, 0, "/traced", traceparent=f"00-{trace}-{CALLER}-01").status_code == 502
    until(lambda: {"POST /{name}", "invoke traced"} <= set(collector.of(trace)))
    spans = collector.of(trace)
    assert spans["POST /{name}"][1].status.code == spans["invoke traced"][1].status.code == 2


def test_an_unsampled_caller_is_not_traced(traced: TracedApi, collector: Collector) -> None:
    silent, last = TRACE.replace("0af", "2af"), TRACE.replace("0af", "3af")
    handed = call(traced, 1, traceparent=f"00-{silent}-{CALLER}-00").json()
    assert handed.startswith(f"00-{silent}-")
    assert handed.endswith("-00")
    call(traced, 1, traceparent=f"00-{last}-{CALLER}-01")
    until(lambda: len(collector.of(last)) >= 4)
    assert collector.of(silent) == {}


def test_a_call_without_a_trace_starts_one(traced: TracedApi) -> None:
    version, trace, _, flags = call(traced, 1).json().split("-")
    assert (version, len(trace)) == ("00", 32)
    assert int(flags, 16) & 1, "sampled; SDKs set a second bit for a random id"


def test_every_reply_and_every_outcome_is_a_log_line_with_the_job_id(traced: TracedApi) -> None:
    reply = call(traced, 1)
    job_id, request_id = reply.headers["x-job-id"], reply.headers["x-request-id"]

    def lines(part: Part, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in list(part.lines) if line.startswith("{")]
        return [line for line in found if line["event"] == event and line.get("job_id") == job_id]

    until(lambda: lines(traced.api, "request") and lines(traced.worker, "job ended"))
    (request,), (ended,) = lines(traced.api, "request"), lines(traced.worker, "job ended")
    assert (request["status"], request["function"], request["request_id"]) == (200, "traced", request_id)
    assert (request["logger"], request["level"], request["client"]) == ("sandlot.access", "info", "127.0.0.1")
    assert (ended["function"], ended["version"], ended["outcome"], ended["level"]) == ("traced", 1, "ok", "debug")
