"""What all parts of a simulated network share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from simulations.bans import Bans
from simulations.endpoint import Carrier, Endpoint
from simulations.engine import Engine
from simulations.paths import NetworkSettings, Paths
from wire.ids import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The devices of a network, the paths between them, and what is counted."""

    engine: Engine
    settings: NetworkSettings
    paths: Paths
    carrier: Carrier
    carriers: dict[PeerId, Carrier] = field(default_factory=dict)  # of those who send by another
    endpoints: dict[PeerId, Endpoint] = field(default_factory=dict)
    bans: Bans = field(default_factory=Bans)
    counts: Counter[str] = field(default_factory=Counter)

    def carrier_of(self, peer: PeerId) -> Carrier:
        """Return what carries what a device sends."""
        return self.carriers.get(peer, self.carrier)

    def can_reach(self, one: PeerId, other: PeerId) -> bool:
        """Say whether packets pass between two devices both ways, and both answer."""
        here, there = self.endpoints.get(one), self.endpoints.get(other)
        if here is None or there is None or not here.is_answering or not there.is_answering:
            return False
        return self.paths.is_whole(one, other)
