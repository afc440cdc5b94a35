"""JSON text is let in only if Python and JavaScript both read it, and nothing refused is ever a surprise."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlot.errors import InvalidJson
from sandlot.offload import CHUNK_BYTES
from sandlot.strict_json import check_json


def no_constant(name: str) -> Any:
    raise ValueError(name)


def reference_depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((reference_depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((reference_depth(inner) for inner in value), default=0)
    return 0


def holds_infinity(value: object) -> bool:
    if isinstance(value, dict):
        return any(holds_infinity(inner) for inner in value.values())
    if isinstance(value, list):
        return any(holds_infinity(inner) for inner in value)
    return isinstance(value, float) and math.isinf(value)


def reference_accepts(data: bytes, max_depth: int = 200) -> bool:
    """The same decision, made slowly: decode everything, then look."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return reference_depth(value) <= max_depth and not holds_infinity(value)


def accepts(data: bytes, max_depth: int = 200) -> bool:
    try:
        check_json(data, max_depth=max_depth)
    except InvalidJson:
        return False
    return True


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.slow
@given(json_values, st.booleans())
def test_everything_that_json_dumps_writes_is_accepted(value: object, ascii_only: bool) -> None:
    check_json(json.dumps(value, ensure_ascii=ascii_only).encode())


@pytest.mark.slow
@given(json_values, st.booleans(), st.data())
def test_a_damaged_text_gets_the_verdict_of_the_slow_reference(
    value: object, ascii_only: bool, data: st.DataObject
) -> None:
    text = bytearray(json.dumps(value, ensure_ascii=ascii_only).encode())
    at = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(at, min(len(text), at + 3)))
    text[at:end] = data.draw(
        st.sampled_from([b"", b'"', b"\\", b"\\ud800", b"\\udc00", b"e400", b"NaN", b"]", b"{", b"\xff", b"\x00", b"9"])
    )
    assert accepts(bytes(text)) == reference_accepts(bytes(text))


@given(st.text(alphabet='[]{}",:\\u0d89c1eE+-. ', max_size=40))
def test_hostile_text_gets_the_verdict_of_the_slow_reference(text: str) -> None:
    assert accepts(text.encode()) == reference_accepts(text.encode())


@pytest.mark.slow
@given(
    st.lists(
        st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\uD83D", "\\uDE00", "u", "\\n", '\\"', "a", "\\u0041"]),
        max_size=8,
    )
)
def test_surrogates_are_let_in_only_as_pairs(parts: list[str]) -> None:
    for text in ('"' + "".join(parts) + '"', '{"' + "".join(parts) + '":1}'):
        assert accepts(text.encode()) == reference_accepts(text.encode())


@given(st.integers(0, 6), st.integers(1, 4), st.sampled_from(["1", '"[[[["', '"\\"[{"', '"\\\\"', "{}"]))
def test_depth_is_counted_outside_strings_only(levels: int, max_depth: int, leaf: str) -> None:
    text = ('{"[":[' * levels + leaf + "]}" * levels).encode()
    assert accepts(text, max_depth) == reference_accepts(text, max_depth)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\xef\xbb\xbf1", "byte order mark"),
        (b"NaN", "NaN and Infinity"),
        (b"[1,-Infinity]", "NaN and Infinity"),
        (b'{"a":1', "ends too early"),
        (b"[1,]", "byte 3"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b'["\xed\xa0\x80"]', "not UTF-8 at byte 2"),
        (b'["\\udc00"]', "lone surrogate \\udc00 at byte 2"),
        (b'["\\uD800"]', "lone surrogate \\uD800 at byte 2"),
        (b"1e999", "larger than a double"),
        (b'{"a":[1, 2E+0400 ]}', "larger than a double"),
        (b"1" * 320 + b".0", "larger than a double"),
        (b"9" * 5000, "5000 digits"),
        (b"[" * 201 + b"]" * 201, "deeper than 200"),
        (b"[" * 100_000, "deeper than 200"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "deeper than 200"),
    ],
)
def test_a_refusal_names_the_mistake(text: bytes, reason: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        check_json(text)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b" 1 ",
        b'"\\ud83d\\ude00"',
        b'"\\\\ud800"',
        b'"1e999"',
        b"1e-999",
        b"1.7e308",
        b"9" * 4300,
        b"[" * 200 + b"]" * 200,
        b"[" + b"{}," * 500 + b"{}]",
        b'"' + b"[" * 500 + b'"',
    ],
)
def test_text_in_the_corners_of_what_is_allowed_is_accepted(text: bytes) -> None:
    check_json(text)


@pytest.mark.parametrize("before", [CHUNK_BYTES - 2, CHUNK_BYTES - 150, CHUNK_BYTES - 299])
@pytest.mark.parametrize("number", [b"1e999", b"-2E+4000", b"9" * 4301])
def test_a_number_that_is_too_large_is_found_where_two_pieces_of_a_long_text_meet(before: int, number: bytes) -> None:
    text = b"[" + b" " * (before - 1) + number + b"," + b"0" * 1 + b"]"
    with pytest.raises(InvalidJson, match=r"larger than a double|digits"):
        check_json(text)


def test_depth_is_counted_through_all_pieces_of_a_long_text() -> None:
    padding = b" " * (CHUNK_BYTES // 2)
    deep = b"".join(b"[" + padding * (level % 100 == 0) for level in range(201)) + b"]" * 201
    with pytest.raises(InvalidJson, match="nested deeper than 200"):
        check_json(deep)
    check_json(deep[1:-1])


def test_brackets_in_a_long_string_are_text() -> None:
    check_json(b'"' + b"[" * (2 * CHUNK_BYTES) + b'"')
