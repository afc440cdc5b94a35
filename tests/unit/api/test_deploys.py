"""The forms of a deploy, revisions, and aliases over HTTP."""

import io
import zipfile

import httpx
import pytest

from api.http.body import read_multipart
from sandlot.api_keys import KeyStore, Scope
from sandlot.errors import CallerError

SOURCE = b"def handler(event, context):\n    return event\n"


async def test_a_folder_is_deployed_as_the_parts_of_a_form(admin: httpx.AsyncClient) -> None:
    files = [
        ("file", ("main.py", SOURCE)),
        ("file", ("parts/data.bin", bytes(range(256)) + b"\r\n--x\r\n")),
        ("manifest", (None, b'{"timeout": "2s"}')),
    ]
    reply = await admin.put("/v1/functions/form", files=files)
    assert reply.status_code == 201, reply.text
    assert reply.json()["manifest"]["timeout"] == "2s"


async def test_a_zip_may_be_the_only_part_of_a_form(admin: httpx.AsyncClient) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder:
        folder.writestr("main.py", SOURCE)
    reply = await admin.put("/v1/functions/form", files={"bundle": ("form.zip", archive.getvalue())})
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize(
    ("files", "code", "word"),
    [
        ([("file", ("../main.py", SOURCE))], "invalid_manifest", "../main.py"),
        ([("file", ("/main.py", SOURCE))], "invalid_manifest", "/main.py"),
        (
            [("file", ("main.py", SOURCE)), ("file", ("main.py", SOURCE))],
            "invalid_manifest",
            "'main.py' occurs twice",
        ),
        (
            [("file", ("main.py", SOURCE)), ("file", ("Main.py", SOURCE))],
            "invalid_manifest",
            "not every file system distinguishes",
        ),
        ([("file", ("main.py", SOURCE)), ("colour", (None, b"red"))], "bad_request", "'colour' is not a field"),
        ([("file", ("main.py", SOURCE)), ("manifest", (None, b"[1]"))], "invalid_json", "manifest"),
        ([("manifest", (None, b"{}"))], "bad_request", "no file"),
    ],
)
async def test_a_form_without_a_function_is_refused_with_the_reason(
    admin: httpx.AsyncClient, files: list[tuple[str, tuple[str | None, bytes]]], code: str, word: str
) -> None:
    reply = await admin.put("/v1/functions/form", files=files)
    assert reply.json()["code"] == code, reply.text
    assert word in reply.json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("multipart/form-data", b"", "without a boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\n", "cut short"),
        ("multipart/form-data; boundary=x", b"no boundary", "cut short"),
        ("multipart/form-data; boundary=x", b"--x\r\nnothing\r\n--x--", "no end to its headers"),
        ("multipart/form-data; boundary=x", b"--x\r\n\xff: 1\r\n\r\n\r\n--x--", "not UTF-8"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: 1\r\n\r\n\r\n--x--", "no name"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n" * 5 + b"--x--", "more than 3 parts"),
    ],
)
def test_a_malformed_form_is_refused(content_type: str, body: bytes, reason: str) -> None:
    with pytest.raises(CallerError, match=reason):
        read_multipart(content_type, body, 3)


def test_names_with_quotes_arrive_as_curl_and_browsers_write_them() -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\nv\r\n'
    parts = read_multipart('multipart/form-data; boundary="x"', head % b'a\\"b' + head % b"a%22b" + b"--x--\r\n", 9)
    assert [(part.filename, part.content) for part in parts] == [('a"b', b"v")] * 2


@pytest.mark.parametrize("value", ["1", '"', '""', '"a", "b"', 'W/"1"'])
async def test_an_if_match_that_is_not_an_etag_is_refused(admin: httpx.AsyncClient, value: str) -> None:
    reply = await admin.put("/v1/functions/hello", json={"source": SOURCE.decode()}, headers={"if-match": value})
    assert (reply.status_code, "If-Match" in reply.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("{", "JSON"),
        ("[]", "an alias is"),
        ("{}", "version"),
        ('{"version": "x"}', "an alias is"),
        ('{"version": 1, "w": 2}', "an alias is"),
    ],
)
async def test_an_invalid_alias_name_is_refused_with_the_rule(admin: httpx.AsyncClient, body: str, word: str) -> None:
    reply = await admin.put("/v1/functions/hello/aliases/prod", content=body)
    assert (reply.status_code, word in reply.json()["detail"]) == (400, True), reply.text


async def test_a_key_for_some_functions_handles_only_their_secrets(
    anyone: httpx.AsyncClient, admin: httpx.AsyncClient, keys: KeyStore
) -> None:
    token, _ = await keys.create({Scope.DEPLOY}, prefix="shop-")
    anyone.headers["authorization"] = f"Bearer {token}"
    await admin.put("/v1/secrets/ALL", json={"value": "for all"})
    assert (await anyone.put("/v1/secrets/ALL", json={"value": "mine", "prefix": "shop-"})).status_code == 403
    assert (await anyone.put("/v1/secrets/NEW", json={"value": "for all"})).status_code == 403
    assert (await anyone.delete("/v1/secrets/ALL")).status_code == 403
    assert (await anyone.put("/v1/secrets/NEW", json={"value": "mine", "prefix": "shop-"})).status_code == 200
    assert [secret["name"] for secret in (await anyone.get("/v1/secrets")).json()["secrets"]] == ["NEW"]
    assert (await anyone.delete("/v1/secrets/NEW")).status_code == 204
