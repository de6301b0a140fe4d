"""The host as gossip and Kademlia see it: a network of admitted peers and nobody else.

libp2p's services take a host. They get this one, which needs no private name of theirs: it admits,
renames their protocol ids (libp2p accepts a prefix for Kademlia but does not apply it), and tells
them only of admitted peers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, cast

import trio
from libp2p.abc import IHost, INetConn, INetStream, INotifee, IPeerStore
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.utils.varint import encode_delim, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.gate import Gate
from p2p.guards import SilentHost
from p2p.swarm import MeshSwarm

LINE_BYTES_MAX: Final = 1_024
CLEANUP_S: Final = 1.0


class MembersView:
    """What a service may do and see; the part of libp2p's IHost that its services use."""

    def __init__(
        self,
        host: SilentHost,
        swarm: MeshSwarm,
        gate: Gate,
        *,
        names: Mapping[TProtocol, TProtocol],
        introduce: Callable[[ID], Awaitable[None]],
    ) -> None:
        """`names` maps libp2p's protocol ids to ours; `introduce` tries to have a peer admitted."""
        self._host = host
        self._swarm = swarm
        self._gate = gate
        self._names = names
        self._introduce = introduce
        self._notifees: list[INotifee] = []

    def as_host(self) -> IHost:
        """Return this view for a service of libp2p, which asks for a whole IHost."""
        return cast(IHost, self)

    def get_id(self) -> ID:
        """Return our id."""
        return self._host.get_id()

    def get_private_key(self) -> PrivateKey:
        """Return our key, with which gossip is signed."""
        return self._host.get_private_key()

    def get_public_key(self) -> PublicKey:
        """Return our public key."""
        return self._host.get_public_key()

    def get_addrs(self) -> list[Multiaddr]:
        """Return where others can dial us."""
        return self._host.get_addrs()

    def get_peerstore(self) -> IPeerStore:
        """Return what is known about peers."""
        return self._host.get_peerstore()

    def get_connected_peers(self) -> list[ID]:
        """Return the admitted peers that are connected."""
        return [peer for peer in self._swarm.connections if self._gate.is_admitted(peer)]

    def get_network(self) -> MembersView:
        """Return the network of admitted peers: this same view."""
        return self

    def get_connections(self, peer_id: ID) -> list[INetConn]:
        """Return the connections to a peer, none if it is not admitted."""
        return self._swarm.live_connections(peer_id) if self._gate.is_admitted(peer_id) else []

    def register_notifee(self, notifee: INotifee) -> None:
        """Remember whom to tell of admitted peers that come and go."""
        self._notifees.append(notifee)

    def set_stream_handler(self, protocol_id: TProtocol, stream_handler: StreamHandlerFn) -> None:
        """Serve a protocol to admitted peers, under our name for it."""
        name = self._names.get(protocol_id, protocol_id)
        self._host.set_stream_handler(name, self._gate.members_only(stream_handler))

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Open a stream to an admitted peer, under our names. Raises SwarmException."""
        await self._require(peer_id)
        names = [self._names.get(name, name) for name in protocol_ids]
        stream = await self._host.new_stream(peer_id, names)
        self._gate.track(stream)
        return stream

    async def new_stream_saying(
        self, peer_id: ID, protocol_id: TProtocol, first: bytes
    ) -> INetStream:
        """Open a stream, sending `first` along with what negotiates it. Raises BaseLibp2pError.

        *multistream-select* lets a peer that offers one protocol go on at once: what follows is for
        whoever agreed to it. So the answer to `first` is there after one round trip, not three.
        """
        await self._require(peer_id)
        name = self._names.get(protocol_id, protocol_id)
        stream = await self._swarm.new_stream(peer_id)
        is_agreed = False
        try:
            self._gate.track(stream)
            stream.set_protocol(name)
            lines = [MULTISELECT_PROTOCOL_ID.encode(), name.encode()]
            await stream.write(b"".join(map(encode_delim, lines)) + first)
            for line in lines:
                echoed = await read_varint_prefixed_bytes_limited(stream, LINE_BYTES_MAX)
                if echoed != line + b"\n":
                    raise SwarmException(f"{peer_id} does not serve {name}")
            is_agreed = True
        finally:
            if not is_agreed:
                with trio.move_on_after(CLEANUP_S, shield=True):
                    await stream.reset()
        return stream

    async def _require(self, peer_id: ID) -> None:
        if not self._gate.is_admitted(peer_id) or not self.get_connections(peer_id):
            await self._introduce(peer_id)
        if not self._gate.is_admitted(peer_id):
            raise SwarmException("not admitted")

    async def connect(self, peer_info: PeerInfo) -> None:
        """Refuse: services do not dial. Raises SwarmException."""
        raise SwarmException(f"not allowed to dial {peer_info.peer_id}")

    async def arrived(self, peer: ID) -> None:
        """Tell the services that an admitted peer is here."""
        for connection in self._swarm.live_connections(peer)[:1]:
            for notifee in self._notifees:
                await notifee.connected(self._swarm, connection)

    async def left(self, peer: ID) -> None:
        """Tell the services that a peer is gone, or is no longer admitted."""
        for notifee in self._notifees:
            await notifee.disconnected(self._swarm, cast(INetConn, _Gone(_OfPeer(peer))))


class _OfPeer(NamedTuple):
    peer_id: ID


class _Gone(NamedTuple):
    """As much of a connection as a service reads to learn whose it was."""

    muxed_conn: _OfPeer
