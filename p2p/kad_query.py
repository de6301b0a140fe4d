"""One question of Kademlia to one device: who provides this key, and who is nearer to it?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types
from multiaddr.exceptions import Error as MultiaddrError  # type: ignore[import-untyped]

from p2p.addresses import Address, parse_address
from p2p.errors import ForeignKey, MalformedAddress, StreamBroken
from p2p.identity import peer_of
from p2p.members_view import MembersView

ANSWER_BYTES_MAX: Final = 256 * 1024
PEERS_MAX: Final = 20
ADDRESSES_PER_PEER_MAX: Final = 8


class Named(NamedTuple):
    """A device that somebody named, and where it is said to be."""

    peer: ID
    addresses: tuple[Address, ...]


class Answer(NamedTuple):
    """What one device answered, at most `PEERS_MAX` of each."""

    providers: tuple[Named, ...]
    nearer: tuple[Named, ...]


async def ask_for_providers(members: MembersView, peer: ID, key: bytes) -> Answer:
    """Return what `peer` says about `key` (GET_PROVIDERS of *kad-dht*). Raises StreamBroken."""
    question = Message(type=Message.GET_PROVIDERS, key=key)
    try:
        stream = await members.new_stream(peer, [PROTOCOL_ID])
        try:
            await stream.write(encode_varint_prefixed(question.SerializeToString()))
            answer = await read_varint_prefixed_bytes_limited(stream, ANSWER_BYTES_MAX)
        finally:
            await stream.close()
        message = Message.FromString(answer)
    except (BaseLibp2pError, DecodeError) as error:
        raise StreamBroken(f"no answer from {peer}") from error
    return Answer(_named(message.providerPeers), _named(message.closerPeers))


def _named(peers: Sequence[Message.Peer]) -> tuple[Named, ...]:
    return tuple(
        Named(ID(claim.id), tuple(dialable(claim.addrs)))
        for claim in peers[:PEERS_MAX]
        if is_device(ID(claim.id))
    )


def is_device(peer: ID) -> bool:
    """Say whether a peer id is that of an Ed25519 key."""
    try:
        peer_of(peer)
    except ForeignKey:
        return False
    return True


def dialable(packed: Iterable[bytes | Multiaddr]) -> list[Address]:
    """Return the first addresses of `packed` that we could dial, without `/p2p/...`."""
    addresses = []
    for multiaddr in list(packed)[:ADDRESSES_PER_PEER_MAX]:
        try:
            text = str(Multiaddr(multiaddr)).partition("/p2p/")[0]
            addresses.append(parse_address(text))
        except (MalformedAddress, MultiaddrError):
            continue
    return addresses
