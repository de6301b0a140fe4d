"""When telemetry is worth a signature: often enough to be useful, bounded however large the mesh.

A sample is taken every 10 s. It is signed again when a bucketed value changed, at most once per
max(10 s, 0.1 s x members): then the whole mesh publishes at most ten records a second. An unchanged
one is signed again after three such intervals, never under 60 s, so that its age says something.
"""

from __future__ import annotations

from msgspec import Struct

from telemetry.sample import Sample, bucketed

SAMPLE_EVERY_US = 10_000_000
INTERVAL_US_MIN = 10_000_000
INTERVAL_PER_MEMBER_US = 100_000
REFRESH_INTERVALS_COUNT = 3
REFRESH_US_MIN = 60_000_000


class Published(Struct, frozen=True, kw_only=True):
    """The sample that was signed last, and when on the caller's clock."""

    sample: Sample
    at_us: int


def interval_us(members_count: int) -> int:
    """Return the shortest time between two signed samples of one device."""
    return max(INTERVAL_US_MIN, INTERVAL_PER_MEMBER_US * members_count)


def refresh_us(members_count: int) -> int:
    """Return the longest time that an unchanged sample stays the newest one signed."""
    return max(REFRESH_INTERVALS_COUNT * interval_us(members_count), REFRESH_US_MIN)


def is_publication_due(
    last: Published | None, sample: Sample, *, members_count: int, now_us: int
) -> bool:
    """Return whether `sample` is to be signed now. The first one always is."""
    if last is None:
        return True
    age_us = now_us - last.at_us
    if age_us < interval_us(members_count):
        return False
    if age_us >= refresh_us(members_count):
        return True
    return bucketed(sample) != bucketed(last.sample)
