"""What a host is told when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p.circuit_book import CircuitLimits
from p2p.doorway import DoorwaySettings


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """What a host is. Counts, bytes and seconds; every bound's behaviour is to refuse the newest.

    `identity_seed` is the device's 32-byte Ed25519 seed; nothing here stores it. `network_key` is
    the private network's 32 bytes, None for none. `announce` replaces the addresses told to others,
    for devices behind a router that forwards a port. `dht_prefix` names the mesh's own Kademlia,
    such as `/meshd/<mesh>/kad`. `mdns_service` comes from `p2p.mdns.service_name`, None for none.
    """

    identity_seed: bytes
    network_key: bytes | None
    dht_prefix: str
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    announce: tuple[str, ...] = ()
    connections_max: int = 64
    doorway: DoorwaySettings = field(default_factory=DoorwaySettings)
    connections_per_peer_max: int = 4
    member_streams_max: int = 128
    stranger_streams_max: int = 8
    stranger_s_max: float = 30.0
    circuits: CircuitLimits = field(default_factory=CircuitLimits)  # what is carried for others
    mdns_service: str | None = None
