"""Telemetry is signed when it is news, and never more often than the mesh can bear."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.publication import (
    SAMPLE_EVERY_US,
    Published,
    interval_us,
    is_publication_due,
    refresh_us,
)
from telemetry.sample import Sample

SECOND_US = 1_000_000
IDLE, BUSY = Sample(cpu_idle_permille=900), Sample(cpu_idle_permille=100)


@pytest.mark.parametrize(
    ("members_count", "interval_s", "refresh_s"),
    [(0, 10, 60), (1, 10, 60), (100, 10, 60), (150, 15, 60), (200, 20, 60), (1_000, 100, 300)],
)
def test_the_intervals_of_the_architecture(
    members_count: int, interval_s: int, refresh_s: int
) -> None:
    assert interval_us(members_count) == interval_s * SECOND_US
    assert refresh_us(members_count) == refresh_s * SECOND_US


def due(sample: Sample, *, age_s: int, members_count: int = 3) -> bool:
    last = Published(sample=IDLE, at_us=500)
    return is_publication_due(
        last, sample, members_count=members_count, now_us=500 + age_s * SECOND_US
    )


def test_the_first_sample_is_signed_at_once() -> None:
    assert is_publication_due(None, IDLE, members_count=3, now_us=-5)


def test_a_changed_bucket_is_signed_after_the_interval_and_not_before() -> None:
    assert not due(BUSY, age_s=9)
    assert due(BUSY, age_s=10)
    assert not due(BUSY, age_s=99, members_count=1_000)
    assert due(BUSY, age_s=100, members_count=1_000)


def test_an_unchanged_sample_is_signed_only_to_say_that_it_still_holds() -> None:
    close = Sample(cpu_idle_permille=800)
    assert not due(close, age_s=59)
    assert due(close, age_s=60)
    assert not due(close, age_s=299, members_count=1_000)
    assert due(close, age_s=300, members_count=1_000)


@given(st.integers(1, 20_000), st.integers(0, 2**32), st.booleans())
def test_the_rate_is_bounded_both_ways(members_count: int, seed: int, is_restless: bool) -> None:
    random = Random(seed)
    last, signed_at_us = None, []
    for tick in range(400):
        now_us = tick * SAMPLE_EVERY_US
        sample = Sample(cpu_idle_permille=random.randrange(1_001) if is_restless else 500)
        if is_publication_due(last, sample, members_count=members_count, now_us=now_us):
            last = Published(sample=sample, at_us=now_us)
            signed_at_us.append(now_us)
    gaps_us = [after - before for before, after in pairwise(signed_at_us)]
    assert all(gap_us >= interval_us(members_count) for gap_us in gaps_us)
    assert all(gap_us < refresh_us(members_count) + SAMPLE_EVERY_US for gap_us in gaps_us)
    # The whole mesh together: at most ten signed samples a second, however large it is.
    assert members_count * SECOND_US / interval_us(members_count) <= 10
