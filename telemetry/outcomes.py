"""Outcomes of one device at tasks of one kind: counts that only grow, and how much they still say.

An outcome counts half after a week, a quarter after two. Time is a device's own age, in whole
hours that its daemon ran: no clock is asked, and a device that slept forgets nothing meanwhile.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

HALF_LIFE_H = 7 * 24
MILLI = 1_000
COUNT_MAX = (1 << 53) - 1  # so that thousandths of it are an integer that the store can keep

OutcomeCount = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Milli = Annotated[int, Meta(ge=0, le=COUNT_MAX * MILLI)]
AgeH = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class Counts(Struct, frozen=True, array_like=True):
    """How often: a result was valid, the device itself failed, its result was wrong."""

    valid_count: OutcomeCount = 0
    failed_count: OutcomeCount = 0
    disputed_count: OutcomeCount = 0

    def plus(self, other: Counts) -> Counts:
        """Return both together."""
        return Counts(
            min(self.valid_count + other.valid_count, COUNT_MAX),
            min(self.failed_count + other.failed_count, COUNT_MAX),
            min(self.disputed_count + other.disputed_count, COUNT_MAX),
        )

    def beyond(self, earlier: Counts) -> Counts:
        """Return what came since `earlier`; nothing where a count fell."""
        return Counts(
            max(0, self.valid_count - earlier.valid_count),
            max(0, self.failed_count - earlier.failed_count),
            max(0, self.disputed_count - earlier.disputed_count),
        )

    def joined(self, other: Counts) -> Counts:
        """Return the greater of each."""
        return Counts(
            max(self.valid_count, other.valid_count),
            max(self.failed_count, other.failed_count),
            max(self.disputed_count, other.disputed_count),
        )


NO_COUNTS = Counts()


class Remembered(Struct, frozen=True):
    """What outcomes still count, each at most one: the older the less."""

    valid: float = 0.0
    failed: float = 0.0
    disputed: float = 0.0

    @property
    def count(self) -> float:
        """How many outcomes that is; a dispute is counted as such alone."""
        return self.valid + self.failed

    def plus(self, other: Remembered) -> Remembered:
        """Return both together."""
        return Remembered(
            self.valid + other.valid, self.failed + other.failed, self.disputed + other.disputed
        )


class Outcomes(Struct, frozen=True, kw_only=True):
    """All outcomes ever counted, and what of them was remembered at an age."""

    counts: Counts = NO_COUNTS
    valid_milli: Milli = 0
    failed_milli: Milli = 0
    disputed_milli: Milli = 0
    at_h: AgeH = 0

    def plus(self, new: Counts, *, age_h: int) -> Outcomes:
        """Return these with new ones, which are remembered whole."""
        kept = self.remembered(age_h=age_h)
        return Outcomes(
            counts=self.counts.plus(new),
            valid_milli=_milli(kept.valid + new.valid_count),
            failed_milli=_milli(kept.failed + new.failed_count),
            disputed_milli=_milli(kept.disputed + new.disputed_count),
            at_h=age_h,
        )

    def counted(self, counts: Counts, *, age_h: int) -> Outcomes:
        """Return these once an observer's counts are `counts`: what came since is new."""
        return replace(self.plus(counts.beyond(self.counts), age_h=age_h), counts=counts)

    def remembered(self, *, age_h: int) -> Remembered:
        """Return what still counts at an age."""
        share = 0.5 ** (max(0, age_h - self.at_h) / HALF_LIFE_H) / MILLI
        return Remembered(
            self.valid_milli * share, self.failed_milli * share, self.disputed_milli * share
        )


def _milli(count: float) -> int:
    return min(round(count * MILLI), COUNT_MAX * MILLI)
