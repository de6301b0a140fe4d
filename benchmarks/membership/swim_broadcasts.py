"""The updates that a SWIM node passes on along with whatever else it sends, each a few times.

As `queue.go` of memberlist: those that were sent least often go first, of these the newest; a
newer update about a node takes the place of the older one.
"""

from __future__ import annotations

import math

from benchmarks.membership.swim_messages import COMPOUND_PART_BYTES, SIZES, Node, Update


def transmissions_max(multiplier: int, node_count: int) -> int:
    """Return how often an update is sent: `retransmitLimit` of memberlist's `util.go`."""
    return multiplier * math.ceil(math.log10(node_count + 1))


class Broadcasts:
    """At most one update about each node waits."""

    def __init__(self, multiplier: int) -> None:
        self._multiplier = multiplier
        self._tiers: list[dict[Node, Update]] = [{}]  # by how often they were sent
        self._tier_of: dict[Node, int] = {}

    def __len__(self) -> int:
        """How many updates wait."""
        return len(self._tier_of)

    def queue(self, update: Update) -> None:
        """Pass an update on, instead of any other about the same node."""
        tier = self._tier_of.get(update.node)
        if tier is not None:
            del self._tiers[tier][update.node]
        self._put(update, 0)

    def take(self, bytes_max: int, node_count: int) -> list[Update]:
        """Return what fits into the next packet, and count it as sent once more."""
        taken: list[tuple[Update, int]] = []
        for tier, updates in enumerate(self._tiers):
            for update in reversed(updates.values()):
                size_bytes = SIZES[type(update)] + COMPOUND_PART_BYTES
                if size_bytes > bytes_max:
                    break
                bytes_max -= size_bytes
                taken.append((update, tier))
        limit = transmissions_max(self._multiplier, node_count)
        for update, tier in taken:
            del self._tiers[tier][update.node]
            del self._tier_of[update.node]
            if tier + 1 < limit:
                self._put(update, tier + 1)
        return [update for update, _ in taken]

    def _put(self, update: Update, tier: int) -> None:
        while len(self._tiers) <= tier:
            self._tiers.append({})
        self._tiers[tier][update.node] = update
        self._tier_of[update.node] = tier
