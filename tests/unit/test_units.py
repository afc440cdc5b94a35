"""Durations and sizes: what people may write, and that it is read back as what it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlot.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("2m", 120), ("1.5h", 5400), ("1d", 86_400), (" 5 s ", 5), ("0.25s", 0.25)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 years", "1e3s", "5s5", "\u0665s", "5" * 20 + "s", "nan s", "inf s"]
)
def test_anything_else_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a duration|no unit of time"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("64KiB", 65_536), ("1.5MiB", 1_572_864), ("1GiB", 1 << 30)])
def test_a_size_is_a_number_and_a_binary_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["256MB", "256M", "256mb", "1GB", "1k"])
def test_a_decimal_unit_is_refused_with_the_binary_one_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"ambiguous: write [KMG]iB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "256", "MiB", "-1MiB", "256 elephants", "0.3B"])
def test_anything_else_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|no unit of size|whole number"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=86_400_000))
def test_a_written_duration_is_read_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(min_value=0, max_value=1 << 39))
def test_a_written_size_is_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
