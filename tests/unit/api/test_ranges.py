"""Which part of a value a caller asks for."""

import pytest

from api.http.conditional import RangeNotSatisfiable, etag_matches, requested_range

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=2-", slice(2, 10)),
        ("bytes=2-99", slice(2, 10)),
        ("bytes=-3", slice(7, 10)),
        ("bytes=-99", slice(0, 10)),
        ("bytes=5-4", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=", None),
        ("", None),
    ],
)
def test_one_range_of_bytes_is_honoured_and_anything_else_is_the_whole(asked: str, part: slice | None) -> None:
    assert requested_range({"range": asked}, ETAG, 10) == part


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(asked: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        requested_range({"range": asked}, ETAG, 10)


def test_a_range_of_another_value_is_the_whole() -> None:
    assert requested_range({"range": "bytes=0-1", "if-range": '"old"'}, ETAG, 10) is None
    assert requested_range({"range": "bytes=0-1", "if-range": ETAG}, ETAG, 10) == slice(0, 2)


@pytest.mark.parametrize(
    ("asked", "known"), [(ETAG, True), (f'"x", W/{ETAG}', True), ("*", True), ('"x"', False), ("", False)]
)
def test_a_value_that_the_caller_has_is_known_by_its_tag(asked: str, known: bool) -> None:
    assert etag_matches(asked, ETAG) is known
