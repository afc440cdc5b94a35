"""A secret from the request that sets it to the function that needs it, and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from tests.system.http.conftest import Stack
from tests.waiting import until

VALUE = "correct-horse-battery-staple"
SOURCE = """\
import os

def handler(event, context):
    with open(os.environ["SANDLOT_SECRETS_DIR"] + "/PASSWORD") as file:
        value = file.read()
    assert value == os.environ["PASSWORD"]
    print("it is", value)
    if event == "fail":
        raise ValueError("cannot use " + value)
    return [len(value), value[::-1]]
"""


@pytest.fixture
def function(admin: httpx.Client) -> Iterator[str]:
    admin.put("/v1/secrets/PASSWORD", json={"value": VALUE}).raise_for_status()
    deployed = admin.put("/v1/functions/keeper", json={"source": SOURCE, "manifest": {"secrets": ["PASSWORD"]}})
    assert "warnings" not in deployed.json(), deployed.text
    yield "/v1/functions/keeper"
    admin.delete("/v1/functions/keeper")
    admin.delete("/v1/secrets/PASSWORD")


def everything_in(raw: redis.Redis) -> bytes:
    """Every key and every value, whatever its type."""
    found = []
    for key in raw.scan_iter(count=1000):
        match raw.type(key):
            case b"string":
                found.append((key, raw.get(key)))
            case b"hash":
                found.append((key, raw.hgetall(key)))
            case b"list":
                found.append((key, raw.lrange(key, 0, -1)))
            case b"set":
                found.append((key, raw.smembers(key)))
            case b"zset":
                found.append((key, raw.zrange(key, 0, -1)))
            case b"stream":
                found.append((key, raw.xrange(key)))
            case b"none":  # it expired between the scan and the question
                continue
            case other:
                raise AssertionError(f"a key of type {other!r}, which this test cannot read")
    return repr(found).encode()


@pytest.mark.slow
def test_only_the_function_can_read_its_secret(stack: Stack, admin: httpx.Client, function: str) -> None:
    told = admin.post(f"{function}/invoke")
    assert told.json() == [len(VALUE), VALUE[::-1]]
    failed = admin.post(f"{function}/invoke", content=b'"fail"')
    assert (failed.status_code, failed.json()["error"]["errorMessage"]) == (502, "cannot use ***")
    for reply in (told, failed):
        job = reply.headers["x-job-id"]
        assert admin.get(f"/v1/jobs/{job}/logs").text == "it is ***\n"
        assert VALUE not in admin.get(f"/v1/jobs/{job}").text
    seen = admin.get("/v1/secrets").text + admin.get("/v1/secrets/PASSWORD").text + admin.get(function).text
    assert VALUE not in seen
    with redis.Redis.from_url(stack.environment["SANDLOT_REDIS_URL"]) as raw:
        dump = everything_in(raw)
        raw.execute_command("SAVE")
    assert b"keeper" in dump, "or this test looks at another server"
    assert VALUE.encode() not in dump
    files = b"".join(path.read_bytes() for path in Path(stack.environment["SANDLOT_DATA"]).rglob("*") if path.is_file())
    assert VALUE.encode() not in files
    logged = "".join(line for part in stack.parts for line in part.lines)
    assert VALUE not in logged
    for part in (part for part in stack.parts if part.process.poll() is None):  # other tests have stopped some
        for name in ("cmdline", "environ"):
            assert VALUE.encode() not in Path(f"/proc/{part.process.pid}/{name}").read_bytes()


def test_no_process_has_the_secret_in_its_arguments_or_initial_environment(admin: httpx.Client, function: str) -> None:
    admin.post(f"{function}/invoke").raise_for_status()  # its sandbox is warm now
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            try:
                text = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:  # it ended
                continue
            assert VALUE.encode() not in text, pid


def test_the_next_call_gets_the_new_value(admin: httpx.Client, function: str) -> None:
    assert admin.post(f"{function}/invoke").json()[0] == len(VALUE)
    admin.put("/v1/secrets/PASSWORD", json={"value": "another"}).raise_for_status()
    until(lambda: admin.post(f"{function}/invoke").json()[0] == len("another"))


def test_a_missing_secret_is_reported_at_deploy_and_at_call(admin: httpx.Client, function: str) -> None:
    manifest = {"secrets": ["NEVER_SET"]}
    reply = admin.put(function, json={"source": SOURCE, "manifest": manifest})
    assert "sandlot secret set NEVER_SET" in reply.json()["warnings"][0]
    called = admin.post(f"{function}/invoke")
    assert (called.status_code, "NEVER_SET" in called.json()["detail"]) == (502, True), called.text


def test_a_secret_goes_only_to_functions_that_name_it(admin: httpx.Client, function: str) -> None:
    source = "import os\n\ndef handler(event, context):\n    return dict(os.environ)\n"
    admin.put("/v1/functions/curious", json={"source": source}).raise_for_status()
    assert VALUE not in admin.post("/v1/functions/curious/invoke").text
    admin.delete("/v1/functions/curious")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (f'{{"value": "{VALUE}"', "JSON"),
        (f'{{"value": ["{VALUE}"]}}', "a secret is"),
        (f'{{"val": "{VALUE}"}}', "a secret is"),
        ('{"value": ""}', "is empty"),
    ],
)
def test_an_invalid_secret_is_refused_without_repeating_it(admin: httpx.Client, body: str, word: str) -> None:
    reply = admin.put("/v1/secrets/BAD", content=body.encode())
    assert (reply.status_code, word in reply.json()["detail"], VALUE in reply.text) == (400, True, False), reply.text
    assert admin.get("/v1/secrets/BAD").json()["code"] == "secret_not_found"
    assert json.loads(admin.delete("/v1/secrets/BAD").content)["code"] == "secret_not_found"
