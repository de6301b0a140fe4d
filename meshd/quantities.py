"""Durations and sizes as people write them: `30s`, `1h30m`, `64MiB`, `1.5GB`.

Standard library only, because the command line imports it. Arithmetic is exact; what does not come
out as a whole number of microseconds or bytes is refused instead of rounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

from meshd.errors import QuantityError

DURATION_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
SIZE_UNITS_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
TEXT_CHARACTERS_MAX = 40
DURATION_US_MAX = 100 * 365 * DURATION_UNITS_US["d"]
SIZE_BYTES_MAX = 1 << 60

_NUMBER = r"\d{1,19}(?:\.\d{1,9})?"
_DURATION_PART = re.compile(rf"({_NUMBER})(us|ms|s|m|h|d)", re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}(?:us|ms|s|m|h|d))+", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s?([A-Za-z]{{0,3}})", re.ASCII)


def parse_duration_us(text: str) -> int:
    """Return the duration written as `text` in microseconds: `250ms`, `30s`, `1h30m`, `7d`, `0`.

    A number without a unit is refused, since nobody agrees on what it means. Raises QuantityError.
    """
    if text == "0":
        return 0
    if len(text) > TEXT_CHARACTERS_MAX or _DURATION.fullmatch(text) is None:
        raise QuantityError(f"{_shown(text)} is no duration: write it as 250ms, 30s, 5m, 24h or 7d")
    parts = _DURATION_PART.findall(text)
    total = sum(Fraction(number) * DURATION_UNITS_US[unit] for number, unit in parts)
    return _whole(total, text, unit="microseconds", maximum=DURATION_US_MAX)


def parse_size_bytes(text: str) -> int:
    """Return the size written as `text` in bytes: `64MiB` (binary), `64MB` (decimal), `1024`.

    Raises QuantityError.
    """
    match = _SIZE.fullmatch(text) if len(text) <= TEXT_CHARACTERS_MAX else None
    unit = match[2] or "B" if match else ""
    if match is None or unit not in SIZE_UNITS_BYTES:
        raise QuantityError(f"{_shown(text)} is no size: write it as 512KiB, 64MiB, 2GiB or 64MB")
    total = Fraction(match[1]) * SIZE_UNITS_BYTES[unit]
    return _whole(total, text, unit="bytes", maximum=SIZE_BYTES_MAX)


def format_duration_us(duration_us: int) -> str:
    """Return `duration_us` as text that `parse_duration_us` reads back exactly: `1h30m`."""
    if duration_us < 0:
        return "-" + format_duration_us(-duration_us)
    parts = []
    for unit, unit_us in sorted(DURATION_UNITS_US.items(), key=lambda item: -item[1]):
        count, duration_us = divmod(duration_us, unit_us)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


def format_size_bytes(size_bytes: int) -> str:
    """Return `size_bytes` in the largest binary unit that divides it: `64MiB`, `1000B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % SIZE_UNITS_BYTES[unit] == 0:
            return f"{size_bytes // SIZE_UNITS_BYTES[unit]}{unit}"
    return f"{size_bytes}B"


def _whole(total: Fraction | int, text: str, *, unit: str, maximum: int) -> int:
    if Fraction(total).denominator != 1:
        raise QuantityError(f"{_shown(text)} is not a whole number of {unit}")
    if total > maximum:
        raise QuantityError(f"{_shown(text)} is more than we count, {maximum} {unit}")
    return int(total)


def _shown(text: str) -> str:
    return repr(text[:TEXT_CHARACTERS_MAX])
