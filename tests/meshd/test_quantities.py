"""Durations and sizes written by people."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import QuantityError
from meshd.quantities import (
    DURATION_US_MAX,
    SIZE_BYTES_MAX,
    format_duration_us,
    format_size_bytes,
    parse_duration_us,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    ("text", "duration_us"),
    [
        ("0", 0),
        ("250ms", 250_000),
        ("30s", 30_000_000),
        ("1h30m", 5_400_000_000),
        ("7d", 604_800_000_000),
        ("1.5s", 1_500_000),
        ("0.000001s", 1),
    ],
)
def test_a_duration_is_read_in_microseconds(text: str, duration_us: int) -> None:
    assert parse_duration_us(text) == duration_us


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1024", 1024),
        ("64MiB", 64 << 20),
        ("64MB", 64_000_000),
        ("1.5KiB", 1536),
        ("2 GiB", 2 << 30),
    ],
)
def test_a_size_is_read_in_bytes(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "30", "-1s", "1 s", "s", "1.s", "1y", "٣s", "9" * 39 + "s"])
def test_text_that_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(QuantityError, match="write it as"):
        parse_duration_us(text)


@pytest.mark.parametrize("text", ["", "64M", "64mib", "-1B", "1e9", "MiB", "1" * 41])
def test_text_that_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(QuantityError, match="64MiB"):
        parse_size_bytes(text)


def test_what_is_not_whole_or_too_large_is_refused_not_rounded() -> None:
    with pytest.raises(QuantityError, match="whole number of bytes"):
        parse_size_bytes("0.5B")
    with pytest.raises(QuantityError, match="whole number of microseconds"):
        parse_duration_us("0.5us")
    with pytest.raises(QuantityError, match="more than we count"):
        parse_duration_us("999999999d")
    with pytest.raises(QuantityError, match="more than we count"):
        parse_size_bytes("999999999999TiB")


@given(st.integers(0, DURATION_US_MAX).filter(lambda us: len(format_duration_us(us)) <= 40))
def test_a_formatted_duration_reads_back_exactly(duration_us: int) -> None:
    assert parse_duration_us(format_duration_us(duration_us)) == duration_us


@given(st.integers(0, SIZE_BYTES_MAX))
def test_a_formatted_size_reads_back_exactly(size_bytes: int) -> None:
    assert parse_size_bytes(format_size_bytes(size_bytes)) == size_bytes


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_duration_us, parse_size_bytes):
        try:
            said = str(parse(text))
        except QuantityError as error:
            said = str(error)
        assert "\n" not in said


def test_the_module_needs_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import meshd.quantities, meshd.home;"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "sys.exit(','.join(sorted(tops - set(sys.stdlib_module_names) - {'meshd', 'wire'})) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
