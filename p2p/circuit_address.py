"""How libp2p writes down a connection that another device carries: `/p2p/<relay>/p2p-circuit`."""

from __future__ import annotations

from typing import Protocol

from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.identity import libp2p_id, peer_of
from wire.ids import PeerId


class Carried(Protocol):
    """What every connection of libp2p tells about how it came about."""

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Return the addresses that led to it."""
        ...

    def get_connection_type(self) -> ConnectionType:
        """Return whether it is direct."""
        ...


def circuit_address(relay: PeerId) -> Multiaddr:
    """Return the address of everybody through `relay`."""
    return Multiaddr(f"/p2p/{libp2p_id(relay)}/p2p-circuit")


def is_carried(connection: Carried) -> bool:
    """Say whether another device carries a connection."""
    return connection.get_connection_type() is ConnectionType.RELAYED


def carrier_of(connection: Carried) -> PeerId | None:
    """Return who carries a connection, None if it is direct."""
    if not is_carried(connection):
        return None
    (address,) = connection.get_transport_addresses()
    return peer_of(ID.from_string(address.value_for_protocol("p2p")))
