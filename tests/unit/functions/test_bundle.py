"""Bundles: paths that cannot leave their folder, limits, one form of bytes; versions: signatures; archives: what hostile ones try."""

from __future__ import annotations

import contextlib
import io
import random
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlot.errors import InvalidManifest, UnsafeRecord
from sandlot.functions import Bundle, Manifest, Version, read_archive, write_archive, write_version
from sandlot.functions.bundle import FILES_LIMIT, TOTAL_LIMIT_BYTES, digest_of, is_digest, pack, unpack
from sandlot.functions.version import sign_version, verify_version
from sandlot.models import Runtime

MANIFEST = Manifest(runtime=Runtime.PYTHON, handler="main.handler")
SOURCE = b"def handler(event, context):\n    return 1\n"
KEY = b"k" * 32


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        "a\\b",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 256,
        "/".join("a" * 17),
    ],
)
def test_a_path_that_is_not_plainly_inside_is_refused(path: str) -> None:
    with pytest.raises(InvalidManifest):
        Bundle({path: b""})


def test_a_path_cannot_be_both_file_and_folder() -> None:
    with pytest.raises(InvalidManifest, match="both a file and a folder"):
        Bundle({"a": b"", "a/b": b""})


def test_a_bundle_has_limits() -> None:
    with pytest.raises(InvalidManifest, match="files; at most"):
        Bundle({f"f{number}": b"" for number in range(FILES_LIMIT + 1)})
    with pytest.raises(InvalidManifest, match="bytes in total"):
        Bundle({f"big{number}": bytes(TOTAL_LIMIT_BYTES // 2 + 1) for number in range(2)})


def test_equal_bundles_have_equal_digests_whatever_their_order() -> None:
    one = pack(Bundle({"a": b"1", "b": b"2"}), MANIFEST)
    other = pack(Bundle({"b": b"2", "a": b"1"}), MANIFEST)
    assert digest_of(one) == digest_of(other)
    assert is_digest(digest_of(one))


def test_another_manifest_is_another_digest() -> None:
    slower = MANIFEST.model_copy(update={"timeout_s": 6.0})
    assert digest_of(pack(Bundle({"a": b"1"}), MANIFEST)) != digest_of(pack(Bundle({"a": b"1"}), slower))


@given(
    st.dictionaries(
        st.text("abc._-", min_size=1, max_size=8).filter(lambda name: name.strip(".")),
        st.binary(max_size=64),
        max_size=8,
    )
)
def test_a_packed_bundle_unpacks_to_the_same_files(files: dict[str, bytes]) -> None:
    bundle, manifest = unpack(pack(Bundle(files), MANIFEST))
    assert dict(bundle.files) == files
    assert manifest == MANIFEST


@given(st.binary(max_size=200))
def test_bytes_that_are_no_bundle_are_refused(junk: bytes) -> None:
    with pytest.raises((UnsafeRecord, InvalidManifest)):
        unpack(junk)


def version(function: str = "hello", number: int = 1) -> Version:
    return Version(
        function=function, number=number, digest="a" * 64, manifest=MANIFEST, placement="python", created_ms=1
    )


def test_a_signed_version_is_verified_as_itself() -> None:
    assert verify_version(sign_version(version(), KEY), "hello", KEY) == version()


@pytest.mark.parametrize("position", [0, 63, 64, 70, -2])
def test_a_version_changed_anywhere_is_refused(position: int) -> None:
    record = bytearray(sign_version(version(), KEY))
    record[position] ^= 1
    with pytest.raises(UnsafeRecord):
        verify_version(bytes(record), "hello", KEY)


def test_a_version_of_another_function_or_key_is_refused() -> None:
    with pytest.raises(UnsafeRecord, match="the record of 'hello'"):
        verify_version(sign_version(version(), KEY), "other", KEY)
    with pytest.raises(UnsafeRecord, match="not signed with this signing key"):
        verify_version(sign_version(version(), b"x" * 32), "hello", KEY)


def archive(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for entry, content in entries:
            opened.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def test_an_archive_is_read_as_the_folder_it_was() -> None:
    bundle, manifest = read_archive(
        write_archive({"main.py": SOURCE, "function.toml": b'timeout = "3s"', "data/x.csv": b"1"})
    )
    assert (sorted(bundle.files), manifest.timeout_s) == (["data/x.csv", "main.py"], 3.0)


def test_equal_files_make_equal_archives() -> None:
    assert write_archive({"a": b"1", "b": b"2"}) == write_archive({"b": b"2", "a": b"1"})


@pytest.mark.parametrize("name", ["../main.py", "/main.py", "a/../../b.py"])
def test_an_entry_outside_the_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidManifest, match="not a relative path"):
        read_archive(archive([(zipfile.ZipInfo(name), SOURCE), (zipfile.ZipInfo("main.py"), SOURCE)]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_an_archive_entry_that_is_not_a_file_is_refused(kind: int) -> None:
    entry = zipfile.ZipInfo("main.py")
    entry.external_attr = (kind | 0o777) << 16
    with pytest.raises(InvalidManifest, match="neither a file nor a folder; links and devices"):
        read_archive(archive([(entry, b"/etc/passwd")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        ("main.py", "main.py", "'main.py' occurs twice"),
        ("main.py", "MAIN.py", "'MAIN.py' and 'main.py' both occur"),
        ("caf\u00e9.py", "cafe\u0301.py", "both occur: not every file system distinguishes them"),
        ("x", "x/", "twice"),
    ],
)
def test_an_entry_that_is_there_twice_is_refused(one: str, two: str, reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        read_archive(archive([(zipfile.ZipInfo(one), SOURCE), (zipfile.ZipInfo(two), b"")]))


@pytest.mark.parametrize("name", ["../x/", "/x/", "a/../b/", "/".join("x" * 20) + "/", "a//b/"])
def test_a_folder_outside_or_too_deep_is_refused_although_nothing_is_in_it(name: str) -> None:
    with pytest.raises(InvalidManifest, match="refused"):
        read_archive(archive([(zipfile.ZipInfo("main.py"), SOURCE), (zipfile.ZipInfo(name), b"")]))


def test_a_name_with_a_null_byte_is_refused_not_cut() -> None:
    plain = archive([(zipfile.ZipInfo("main.pyX.txt"), SOURCE)])
    with pytest.raises(InvalidManifest):
        read_archive(plain.replace(b"main.pyX", b"main.py\0"))


def test_an_archive_of_too_many_entries_is_refused_before_its_directory_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandlot.functions.archive.FILES_LIMIT", 3)
    many = [(zipfile.ZipInfo(f"f{number}"), b"") for number in range(4)]
    with pytest.raises(InvalidManifest, match="has 4 entries; at most 3"):
        read_archive(archive(many))
    monkeypatch.setattr("sandlot.functions.archive._DIRECTORY_LIMIT", 3)
    with pytest.raises(InvalidManifest, match="more than 3 entries"):
        read_archive(archive(many))


def test_a_bomb_is_refused_by_counting_what_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandlot.functions.archive.TOTAL_LIMIT_BYTES", 10_000)
    with pytest.raises(InvalidManifest, match="'b': with this entry the archive has more than 10000 bytes"):
        read_archive(archive([(zipfile.ZipInfo("main.py"), bytes(6_000)), (zipfile.ZipInfo("b"), bytes(6_000))]))


def test_a_bomb_is_refused_by_how_much_it_swells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandlot.functions.archive.RATIO_FREE_BYTES", 10_000)
    with pytest.raises(InvalidManifest, match="'b': with this entry the archive unpacks to more than 100 times"):
        read_archive(archive([(zipfile.ZipInfo("main.py"), SOURCE), (zipfile.ZipInfo("b"), bytes(1_000_000))]))


def test_a_size_that_an_archive_only_states_buys_nothing() -> None:
    """The directory says 1 byte for an entry of 5,000: zipfile stops there and the checksum fails."""
    honest = archive([(zipfile.ZipInfo("main.py"), bytes(5_000))])
    lying = honest.replace((5_000).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    with pytest.raises(InvalidManifest):
        read_archive(lying)


def test_a_downloaded_version_is_the_same_version_again() -> None:
    manifest = Manifest.model_validate(
        {
            "runtime": "python",
            "handler": "hello.handler",
            "timeout": "1500ms",
            "environment": {"A": 'x "y" \\ \n\x7f é', "B": ""},
            "tags": ["gpu"],
            "concurrency": 3,
            "result_ttl": "2h",
        }
    )
    bundle = Bundle({"hello.py": SOURCE})
    again = read_archive(write_version(bundle, manifest))
    assert digest_of(pack(*again)) == digest_of(pack(bundle, manifest))


@pytest.mark.parametrize("junk", [b"", b"PK", b"not a zip at all", b"PK\x03\x04" + bytes(100)])
def test_a_malformed_archive_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidManifest, match="cannot be read"):
        read_archive(junk)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_what_is_stored_or_deflated_is_read(method: int) -> None:
    """An LZMA entry names the size of a dictionary, up to 4 GiB, that its decoder takes; a broken one raised what nobody caught."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as opened:
        opened.writestr("main.py", SOURCE)
    with pytest.raises(
        InvalidManifest, match=f"'main.py' in the archive is compressed by method {method}; only deflate"
    ):
        read_archive(packed.getvalue())


def test_an_encrypted_entry_is_refused_by_its_name() -> None:
    plain = bytearray(archive([(zipfile.ZipInfo("main.py"), SOURCE)]))
    plain[plain.find(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InvalidManifest, match=r"'main\.py' in the archive is encrypted"):
        read_archive(bytes(plain))


def test_an_entry_without_a_name_is_refused() -> None:
    plain = archive([(zipfile.ZipInfo("main.py"), SOURCE), (zipfile.ZipInfo("X"), b"")])
    with pytest.raises(InvalidManifest, match="an entry without a name"):
        read_archive(plain.replace(b"X", b"\0"))


def test_an_archive_with_bytes_that_were_changed_is_read_or_refused_and_never_breaks_the_reader() -> None:
    """Seeded, so that a failure is the same again."""
    chance = random.Random(5)  # noqa: S311 -- not a secret
    genuine = archive([(zipfile.ZipInfo("main.py"), SOURCE), (zipfile.ZipInfo("d/x.txt"), b"x" * 200)])
    for _ in range(400):
        bent = bytearray(genuine)
        for _ in range(chance.choice((1, 2, 3, 8))):
            bent[chance.randrange(len(bent))] = chance.choice((0, 255, chance.randrange(256)))
        with contextlib.suppress(InvalidManifest):
            read_archive(bytes(bent))


def test_an_archive_leaves_out_the_same_files_as_a_folder() -> None:
    """Finder puts `__MACOSX/._main.py` there, which is no Python; whoever deploys the folder gets the same version."""
    names = ("main.py", ".DS_Store", "__MACOSX/._main.py", "__pycache__/main.cpython-311.pyc", ".git/config")
    bundle, _ = read_archive(archive([(zipfile.ZipInfo(name), SOURCE) for name in names]))
    assert list(bundle.files) == ["main.py"]
