"""What one device observed of others, as all who heard it hold it: counts that only grow.

A state is a generation, (incarnation, generation), and a count for each slot, (subject, kind of
task). Of two states of one observer the later generation stays; within one the greater of each
count stays. So merging is commutative, associative and idempotent (a lexicographic product of a
chain with grow-only counters, Shapiro et al. 2011, *A comprehensive study of Convergent and
Commutative Replicated Data Types*, section 3.1): an observer may drop slots for more room, or
begin anew with an empty disk, only in a new generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from telemetry.outcomes import Counts
from wire.ids import PeerId
from wire.records import Observations

Slot = tuple[PeerId, str]


@dataclass(frozen=True, slots=True)
class Observed:
    """What one observer told, merged."""

    generation: tuple[int, int] = (0, 0)
    counts: Mapping[Slot, Counts] = field(default_factory=dict)

    def joined(self, other: Observed) -> Observed:
        """Return what whoever heard both holds."""
        if self.generation != other.generation:
            return max(self, other, key=lambda one: one.generation)
        counts = dict(self.counts)
        for slot, told in other.counts.items():
            held = counts.get(slot)
            counts[slot] = told if held is None else held.joined(told)
        return Observed(self.generation, counts)


def observed_in(incarnation: int, told: Observations) -> Observed:
    """Return what one record says."""
    counts = {
        one.slot: Counts(one.valid_count, one.failed_count, one.disputed_count)
        for one in told.slots
    }
    return Observed((incarnation, told.generation), counts)
