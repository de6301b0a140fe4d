"""One way between two simulated devices: how long its packets take, and how often they are lost.

What a packet suffers depends on the path's key, its lane and its number on that lane only.
"""

from __future__ import annotations

from collections.abc import Iterable

from simulations.conditions import Conditions
from simulations.seeds import splitmix64

LOSSES_IN_A_ROW_MAX = 6
LOSS_PERMILLE_MAX = 1_000

LANE_MESSAGE = 0
LANE_DIAL = 1
LANE_TRANSFER = 2
LANE_GOSSIP = 3
LANE_LOOKUP = 4
LANE_DATAGRAM = 5
LANES_COUNT = 6


class Path:
    """One ordered pair of devices: what its packets suffer, and how many there were."""

    __slots__ = (
        "_base",
        "_counts",
        "_key",
        "_retransmission_us",
        "_worse",
        "bytes_per_second",
        "jitter_us",
        "latency_us",
        "loss_permille",
        "lost_count",
    )

    def __init__(self, key: int, base: Conditions, retransmission_us: int) -> None:
        self.lost_count = 0
        self._key = key
        self._base = base
        self._retransmission_us = retransmission_us
        self._counts = [0] * LANES_COUNT
        self.worsen(())

    def worsen(self, worse: Iterable[Conditions]) -> None:
        """Let exactly these conditions hold on top of what the path is by itself."""
        conditions = [self._base, *worse]
        self.latency_us = sum(one.latency_us for one in conditions)
        self.jitter_us = sum(one.jitter_us for one in conditions)
        loss_permille = sum(one.loss_permille for one in conditions)
        self.loss_permille = min(loss_permille, LOSS_PERMILLE_MAX)
        caps = [one.bytes_per_second for one in conditions if one.bytes_per_second is not None]
        self.bytes_per_second = min(caps, default=None)

    def fate(self, lane: int) -> int:
        """Return the 64 bits that decide what befalls the next packet of a lane."""
        self._counts[lane] += 1
        return splitmix64(self._key ^ (lane << 56 | self._counts[lane]))

    def flight_us(self, fate: int) -> int:
        """Return how long a packet with this fate takes if it is not lost."""
        return self.latency_us + ((fate & 0xFFFF) * self.jitter_us >> 16) + 1

    def delay_us(self, lane: int) -> int:
        """Return how long the next packet of a lane takes, its retransmissions included."""
        fate = self.fate(lane)
        delay_us = self.latency_us + ((fate & 0xFFFF) * self.jitter_us >> 16) + 1
        return delay_us + self._stall_us(fate) if self.loss_permille else delay_us

    def _stall_us(self, fate: int) -> int:
        stall_us = 0
        for losses in range(LOSSES_IN_A_ROW_MAX):
            fate = splitmix64(fate)
            if (fate & 0xFFFF) * 1_000 >> 16 >= self.loss_permille:
                break
            self.lost_count += 1
            stall_us += self._retransmission_us << losses  # RFC 6298, section 5.5: it doubles
        return stall_us
