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

    def are_answering(self, *peers: PeerId) -> bool:
        """Say whether all of these are devices that run and are not frozen."""
        found = [self.endpoints.get(peer) for peer in peers]
        return all(endpoint is not None and endpoint.is_answering for endpoint in found)

    def can_reach(self, one: PeerId, other: PeerId) -> bool:
        """Say whether packets pass between two devices both ways, and both answer."""
        return self.are_answering(one, other) and self.paths.is_whole(one, other)
