"""Who is connected: libp2p's notices about connections as events about peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.addresses import from_socket
from p2p.identity import peer_of
from wire.ids import PeerId

if TYPE_CHECKING:
    from p2p.swarm import MeshSwarm

_EVENTS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Connected:
    """The first connection to `peer` stands; `address` is its end as we see it.

    If the peer dialled us, the port is that of its outgoing socket: nobody can dial it.
    """

    peer: PeerId
    address: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The last connection to `peer` is gone."""

    peer: PeerId


class ConnectionWatch(INotifee):
    """Turns libp2p's notices about connections into events about peers, in a bounded channel.

    A full channel makes new connections wait; nothing is dropped.
    """

    def __init__(self, swarm: MeshSwarm) -> None:
        self._swarm = swarm
        self._present: set[ID] = set()
        self._send, self.events = trio.open_memory_channel[Connected | Disconnected](_EVENTS_MAX)

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """Tell of a peer's first connection."""
        del network
        peer = conn.muxed_conn.peer_id
        if peer in self._present:
            return
        self._present.add(peer)
        inbound = conn.direction is Direction.INBOUND  # type: ignore[attr-defined] # of SwarmConn
        await self._send.send(Connected(peer_of(peer), seen_at(conn), inbound))

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Tell of a peer's last connection."""
        del network
        peer = conn.muxed_conn.peer_id
        if peer in self._present and not self._swarm.live_connections(peer):
            self._present.remove(peer)
            await self._send.send(Disconnected(peer_of(peer)))

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Streams do not matter here."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Streams do not matter here."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Listening does not matter here."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Listening does not matter here."""


def seen_at(connection: INetConn) -> str:
    """Return the other end of `connection` as address text, "" if the socket is gone."""
    remote = connection.muxed_conn.get_remote_address()  # type: ignore[attr-defined] # of Yamux
    return "" if remote is None else str(from_socket(*remote))
