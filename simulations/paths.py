"""The paths between simulated devices: how long a packet takes, and where none passes.

What a packet suffers depends on (seed, lane, origin, target, count on that lane) only. Faults are
counted per ordered pair of devices: what was cut twice passes again once it was mended twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from p2p.circuit_book import CircuitLimits
from simulations.conditions import (
    BytesPerSecond,
    Conditions,
    Datagrams,
    DurationUs,
    NodeIndex,
    Permille,
    RegionLink,
    RegionName,
)
from simulations.errors import BadScenario
from simulations.path import (
    LANE_DATAGRAM,
    LANE_DIAL,
    LANE_GOSSIP,
    LANE_LOOKUP,
    LANE_MESSAGE,
    LANE_TRANSFER,
    Path,
)
from simulations.seeds import packet_fate, seed_number
from wire.ids import PeerId

QueueBytes: TypeAlias = Annotated[int, Meta(ge=1)]
PeerPair: TypeAlias = tuple[PeerId, PeerId]  # origin, target


class NetworkSettings(Struct, frozen=True, kw_only=True):
    """How the network behaves when nothing is wrong with it. Latencies are one way.

    Devices without a region, or of two regions without a link of their own, have the paths that the
    first fields describe.
    """

    latency_us: DurationUs = 5_000
    jitter_us: DurationUs = 2_000
    loss_permille: Permille = 0
    bytes_per_second: BytesPerSecond | None = 12_500_000  # of each directed path; None: no limit
    regions: dict[NodeIndex, RegionName] = {}
    region_links: tuple[RegionLink, ...] = ()
    datagrams: Datagrams | None = None  # instead of streams: for swarms that look at safety only
    retransmission_us: DurationUs = 200_000
    keepalive_us: DurationUs = 30_000_000
    dial_timeout_us: DurationUs = 10_000_000
    links_max: int = 40
    dials_max: int = 16  # of one device at a time
    behind_nat: tuple[NodeIndex, ...] = ()  # nobody can dial them; they dial
    circuits: CircuitLimits = CircuitLimits()  # what each device carries for others
    queue_max: int = 4_096  # messages of one class that wait on one link; more are dropped
    # By class: control, task and bulk (`wire.messages.Traffic`).
    queue_bytes_max: tuple[QueueBytes, QueueBytes, QueueBytes] = (1 << 20, 4 << 20, 2 << 20)


class Paths:
    """Every ordered pair of devices: what its packets suffer, and whether it is cut or jammed.

    Raises BadScenario for regions that do not fit together.
    """

    def __init__(self, settings: NetworkSettings, *, seed: int) -> None:
        self.settings = settings
        self._seed = seed_number(seed, "network")
        self._indices: dict[PeerId, int] = {}
        self._behind_nat = frozenset(settings.behind_nat)
        self._paths: dict[PeerPair, Path] = {}
        self._cuts: dict[PeerPair, int] = {}
        self._jams: dict[PeerPair, int] = {}
        self._worse: dict[PeerPair, list[Conditions]] = {}
        self._usual = Conditions(
            latency_us=settings.latency_us,
            jitter_us=settings.jitter_us,
            loss_permille=settings.loss_permille,
            bytes_per_second=settings.bytes_per_second,
        )
        self._between = _between_regions(settings)

    def attach(self, peer: PeerId, index: int) -> None:
        """Add a device."""
        self._indices[peer] = index

    @property
    def lost_count(self) -> int:
        """How many packets were lost, and sent again."""
        return sum(path.lost_count for path in self._paths.values())

    # What packets suffer.

    def path(self, origin: PeerId, target: PeerId) -> Path:
        """Return the path from one device to another: the same object every time."""
        path = self._paths.get((origin, target))
        if path is None:
            path = self._paths[origin, target] = self._new_path(origin, target)
        return path

    def _new_path(self, origin: PeerId, target: PeerId) -> Path:
        here, there = self._indices[origin], self._indices[target]
        regions = self.settings.regions
        between = regions.get(here), regions.get(there)
        key = packet_fate(self._seed, 0, here, there, 0)
        base = self._between.get(between, self._usual)
        path = Path(key, base, self.settings.retransmission_us)
        path.worsen(self._worse.get((origin, target), ()))
        return path

    def delay_us(self, lane: int, origin: PeerId, target: PeerId) -> int:
        """Return how long the next packet of a lane takes, its retransmissions included."""
        return self.path(origin, target).delay_us(lane)

    def round_trip_us(self, lane: int, origin: PeerId, target: PeerId) -> int:
        """Return how long the next packet and the answer to it take."""
        return self.delay_us(lane, origin, target) + self.delay_us(lane, target, origin)

    # Where none passes.

    def is_cut(self, origin: PeerId, target: PeerId) -> bool:
        """Say whether packets from `origin` to `target` are lost."""
        return (origin, target) in self._cuts

    def is_jammed(self, origin: PeerId, target: PeerId) -> bool:
        """Say whether packets from `origin` to `target` wait."""
        return (origin, target) in self._jams

    def can_be_dialled(self, target: PeerId) -> bool:
        """Say whether a device is where others can open connections to it."""
        return self._indices[target] not in self._behind_nat

    def passes(self, origin: PeerId, target: PeerId) -> bool:
        """Say whether packets get from `origin` to `target` now."""
        return (origin, target) not in self._cuts and (origin, target) not in self._jams

    def is_whole(self, one: PeerId, other: PeerId) -> bool:
        """Say whether packets get through both ways now."""
        if not self._cuts and not self._jams:
            return True
        return self.passes(one, other) and self.passes(other, one)

    def cuts(self) -> list[PeerPair]:
        """Return the pairs that are cut, those first that were cut first."""
        return list(self._cuts)

    # Faults.

    def cut(self, pairs: Iterable[PeerPair]) -> list[PeerPair]:
        """Lose all packets of these pairs; return those that were not cut before."""
        return _begin(self._cuts, pairs)

    def mend(self, pairs: Iterable[PeerPair]) -> list[PeerPair]:
        """End one cut of each pair; return those that are cut no more."""
        return _end(self._cuts, pairs)

    def jam(self, pairs: Iterable[PeerPair]) -> list[PeerPair]:
        """Let all packets of these pairs wait; return those that were not jammed before."""
        return _begin(self._jams, pairs)

    def release(self, pairs: Iterable[PeerPair]) -> list[PeerPair]:
        """End one jam of each pair; return those that are jammed no more."""
        return _end(self._jams, pairs)

    def worsen(self, pairs: Iterable[PeerPair], conditions: Conditions) -> None:
        """Add to what packets of these pairs suffer."""
        for pair in pairs:
            self._worse.setdefault(pair, []).append(conditions)
            self._apply(pair)

    def better(self, pairs: Iterable[PeerPair], conditions: Conditions) -> None:
        """Take away again what one `worsen` with equal conditions added; nothing, if none did."""
        for pair in pairs:
            worse = self._worse.get(pair, [])
            if conditions in worse:
                worse.remove(conditions)
                self._apply(pair)
            if not worse:
                self._worse.pop(pair, None)

    def heal(self) -> list[PeerPair]:
        """End all faults, however often they were begun; return the pairs that were jammed."""
        jammed, worsened = list(self._jams), list(self._worse)
        self._cuts.clear()
        self._jams.clear()
        self._worse.clear()
        for pair in worsened:
            self._apply(pair)
        return jammed

    def _apply(self, pair: PeerPair) -> None:
        path = self._paths.get(pair)
        if path is not None:
            path.worsen(self._worse.get(pair, ()))


def _begin(counts: dict[PeerPair, int], pairs: Iterable[PeerPair]) -> list[PeerPair]:
    begun = []
    for pair in pairs:
        count = counts.get(pair, 0)
        counts[pair] = count + 1
        if count == 0:
            begun.append(pair)
    return begun


def _end(counts: dict[PeerPair, int], pairs: Iterable[PeerPair]) -> list[PeerPair]:
    """Count down; a pair that `heal` has ended already is left alone."""
    ended = []
    for pair in pairs:
        count = counts.get(pair, 0)
        if count > 1:
            counts[pair] = count - 1
        elif count == 1:
            del counts[pair]
            ended.append(pair)
    return ended


def _between_regions(
    settings: NetworkSettings,
) -> dict[tuple[str | None, str | None], Conditions]:
    """Return what paths are like by the regions of their ends. Raises BadScenario."""
    named = set(settings.regions.values())
    between: dict[tuple[str | None, str | None], Conditions] = {}
    for link in settings.region_links:
        for region in (link.one, link.other):
            if region not in named:
                raise BadScenario(f"a link of region {region!r}, in which no device is")
        if (link.one, link.other) in between:
            raise BadScenario(f"two links between regions {link.one!r} and {link.other!r}")
        conditions = Conditions(
            latency_us=link.latency_us,
            jitter_us=link.jitter_us,
            loss_permille=link.loss_permille,
            bytes_per_second=link.bytes_per_second,
        )
        between[link.one, link.other] = between[link.other, link.one] = conditions
    return between


__all__ = [
    "LANE_DATAGRAM",
    "LANE_DIAL",
    "LANE_GOSSIP",
    "LANE_LOOKUP",
    "LANE_MESSAGE",
    "LANE_TRANSFER",
    "NetworkSettings",
    "Path",
    "Paths",
    "PeerPair",
]
