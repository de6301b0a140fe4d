"""One message of Kademlia to one device: who provides this key and who is nearer, or: I do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types
from multiaddr.exceptions import Error as MultiaddrError  # type: ignore[import-untyped]

from p2p.addresses import Address, parse_address
from p2p.errors import ForeignKey, MalformedAddress, StreamBroken
from p2p.identity import peer_of
from p2p.members_view import MembersView
from wire.events import Provider

ANSWER_BYTES_MAX: Final = 256 * 1024
CLEANUP_S: Final = 1.0
CONFIRM_S: Final = 0.5
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
    """Return what `peer` says about `key` (GET_PROVIDERS of *kad-dht*). Raises StreamBroken.

    Takes one round trip on a standing connection.
    """
    question = Message(type=Message.GET_PROVIDERS, key=key)
    try:
        async with _saying(members, peer, question) as stream:
            answer = await read_varint_prefixed_bytes_limited(stream, ANSWER_BYTES_MAX)
        message = Message.FromString(answer)
    except (BaseLibp2pError, DecodeError) as error:
        raise StreamBroken(f"no answer from {peer}") from error
    return Answer(_named(message.providerPeers), _named(message.closerPeers))


async def tell_provider(members: MembersView, peer: ID, key: bytes, provider: PeerInfo) -> None:
    """Have `peer` keep a record (ADD_PROVIDER of *kad-dht*). Raises StreamBroken.

    py-libp2p confirms it, or resets the stream; others say nothing, and are not waited for.
    """
    record = Message(type=Message.ADD_PROVIDER, key=key)
    packed = [address.to_bytes() for address in provider.addrs]
    record.providerPeers.add(id=provider.peer_id.to_bytes(), addrs=packed)
    try:
        async with _saying(members, peer, record) as stream:
            with trio.move_on_after(CONFIRM_S):
                await read_varint_prefixed_bytes_limited(stream, ANSWER_BYTES_MAX)
    except BaseLibp2pError as error:
        raise StreamBroken(f"{peer} took no record") from error


@asynccontextmanager
async def _saying(members: MembersView, peer: ID, message: Message) -> AsyncIterator[INetStream]:
    """Send one message; the stream is finished if all goes well, else reset."""
    first = encode_varint_prefixed(message.SerializeToString())
    stream = await members.new_stream_saying(peer, PROTOCOL_ID, first)
    is_over = False
    try:
        yield stream
        is_over = True
    finally:
        with trio.move_on_after(CLEANUP_S, shield=True):
            await (stream.close() if is_over else stream.reset())


def claim_of(named: Named) -> Provider:
    """Return a claim as cores know it."""
    return Provider(peer_of(named.peer), tuple(map(str, named.addresses)))


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
