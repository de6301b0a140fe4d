"""How long a SWIM node waits for a refutation: the shorter, the more others suspect the same.

Lifeguard, Dadgar et al. 2018, section IV-B; `suspicion.go` and `util.go` of memberlist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from benchmarks.membership.swim_messages import Node

_US_PER_MS = 1_000


def suspicion_us(multiplier: int, node_count: int, interval_us: int) -> int:
    """Return the time that a suspect has at least: `suspicionTimeout`."""
    scale = max(1.0, math.log10(max(1, node_count)))
    return multiplier * int(scale * 1_000) * interval_us // 1_000


@dataclass(slots=True, kw_only=True)
class Suspicion:
    """One suspect: since when, for how long at most and at least, and who agrees."""

    since_us: int
    confirmations_max: int
    min_us: int
    max_us: int
    origins: set[Node]
    confirmations_count: int = field(default=0)

    def confirm(self, origin: Node) -> bool:
        """Count who suspects the same; say whether that is news, and worth passing on."""
        if self.confirmations_count >= self.confirmations_max or origin in self.origins:
            return False
        self.origins.add(origin)
        self.confirmations_count += 1
        return True

    def due_us(self) -> int:
        """Return when the suspect is declared dead, unless it refutes: `remainingSuspicionTime`."""
        if self.confirmations_max < 1:
            return self.since_us + self.min_us
        share = math.log(self.confirmations_count + 1) / math.log(self.confirmations_max + 1)
        wait_us = self.max_us - share * (self.max_us - self.min_us)
        return self.since_us + max(self.min_us, int(wait_us // _US_PER_MS) * _US_PER_MS)
