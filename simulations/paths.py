"""The paths between simulated devices: how long a packet takes, and where none passes.

What a packet suffers depends on (seed, origin, target, count on that lane) only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from simulations.seeds import packet_fate, seed_number, splitmix64
from wire.ids import PeerId

LOSSES_IN_A_ROW_MAX = 6

LANE_MESSAGE = 0
LANE_DIAL = 1
LANE_TRANSFER = 2
LANE_GOSSIP = 3
LANE_LOOKUP = 4


class NetworkSettings(Struct, frozen=True, kw_only=True):
    """How the network behaves when nothing is wrong with it. Latencies are one way."""

    latency_us: int = 5_000
    jitter_us: int = 2_000
    loss_permille: int = 0
    retransmission_us: int = 200_000
    keepalive_us: int = 30_000_000
    dial_timeout_us: int = 10_000_000
    bytes_per_second: int = 12_500_000
    links_max: int = 40
    queue_max: int = 4_096  # messages of one class that wait on one link; more are dropped


class Paths:
    """Every ordered pair of devices: its latency, its losses, and whether it is cut."""

    def __init__(self, settings: NetworkSettings, *, seed: int) -> None:
        self.settings = settings
        self.lost_count = 0
        self._seed = seed_number(seed, "network")
        self._indices: dict[PeerId, int] = {}
        self._packets: Counter[tuple[int, int, int]] = Counter()
        self._cut: set[tuple[PeerId, PeerId]] = set()
        self._slowed_us: dict[tuple[PeerId, PeerId], int] = {}

    def attach(self, peer: PeerId, index: int) -> None:
        """Add a device."""
        self._indices[peer] = index

    def delay_us(self, lane: int, origin: PeerId, target: PeerId) -> int:
        """Return how long the next packet of a lane takes, its retransmissions included."""
        settings = self.settings
        place = lane, self._indices[origin], self._indices[target]
        self._packets[place] += 1
        fate = packet_fate(self._seed, *place, self._packets[place])
        delay_us = settings.latency_us + (fate & 0xFFFF) * settings.jitter_us // 0x10000 + 1
        delay_us += self._slowed_us.get((origin, target), 0)
        for losses in range(LOSSES_IN_A_ROW_MAX):
            fate = splitmix64(fate)
            if (fate & 0xFFFF) * 1_000 >> 16 >= settings.loss_permille:
                break
            self.lost_count += 1
            delay_us += settings.retransmission_us << losses  # RFC 6298, section 5.5: it doubles
        return delay_us

    def round_trip_us(self, lane: int, origin: PeerId, target: PeerId) -> int:
        """Return how long the next packet and the answer to it take."""
        return self.delay_us(lane, origin, target) + self.delay_us(lane, target, origin)

    def passes(self, origin: PeerId, target: PeerId) -> bool:
        """Say whether packets get from `origin` to `target`."""
        return (origin, target) not in self._cut

    def is_whole(self, one: PeerId, other: PeerId) -> bool:
        """Say whether packets get through both ways."""
        return (one, other) not in self._cut and (other, one) not in self._cut

    def cut(self, origins: Iterable[PeerId], targets: Iterable[PeerId]) -> list[_Pair]:
        """Let nothing pass from `origins` to `targets`; return the pairs, in order."""
        target_list = list(targets)
        pairs = [(one, other) for one in origins for other in target_list if one != other]
        self._cut.update(pairs)
        return pairs

    def split(self, groups: Sequence[Sequence[PeerId]]) -> list[_Pair]:
        """Let devices reach those of their own group only; who is in none is a group with them."""
        named = {peer for group in groups for peer in group}
        parts = [*groups, [peer for peer in self._indices if peer not in named]]
        return [
            pair
            for here, part in enumerate(parts)
            for there, other in enumerate(parts)
            if here != there
            for pair in self.cut(part, other)
        ]

    def isolate(self, peer: PeerId) -> list[_Pair]:
        """Cut one device off from all others."""
        return self.split([[peer]])

    def slow(self, peer: PeerId, extra_us: int) -> None:
        """Add to the latency of everything that one device sends or receives."""
        for other in self._indices:
            self._slowed_us[peer, other] = self._slowed_us[other, peer] = extra_us

    def heal(self) -> None:
        """Let everything pass again, at the usual speed."""
        self._cut.clear()
        self._slowed_us.clear()


_Pair = tuple[PeerId, PeerId]
