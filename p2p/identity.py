"""Our peer ids and libp2p's: the same key, raw here and wrapped there."""

from __future__ import annotations

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

from p2p.errors import ForeignKey
from wire.errors import MalformedId
from wire.ids import PEER_ID_BYTES, PeerId

_PREFIX = bytes.fromhex("002408011220")  # identity multihash of protobuf {Ed25519, 32 bytes}


def key_pair(seed: bytes) -> KeyPair:
    """Return the key pair of a 32-byte Ed25519 seed."""
    return create_new_key_pair(seed)


def libp2p_id(peer: PeerId) -> ID:
    """Return libp2p's id of a device."""
    if len(peer) != PEER_ID_BYTES:
        raise MalformedId(f"a peer id has {PEER_ID_BYTES} bytes, not {len(peer)}")
    return ID(_PREFIX + peer)


def peer_of(peer_id: ID) -> PeerId:
    """Return the device that libp2p calls `peer_id`. Raises ForeignKey."""
    raw = peer_id.to_bytes()
    if len(raw) != len(_PREFIX) + PEER_ID_BYTES or not raw.startswith(_PREFIX):
        raise ForeignKey(f"{raw[:64].hex()} is the id of no Ed25519 key")
    return PeerId(raw[len(_PREFIX) :])
