"""The ids of the mesh, as bytes on the wire and as text for people.

A `PeerId` is a device's raw Ed25519 public key, so whoever holds an id can verify its signatures.
Its texts are libp2p's peer id (specification *peer-ids*) and `did:key` (W3C CCG, *did:key v0.7*).
A `BatchId` is the first 20 bytes of the BLAKE3 digest of a signed contract.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, NewType

from msgspec import Meta, Struct

from wire.errors import MalformedId

PEER_ID_BYTES = 32
DIGEST_BYTES = 32
BATCH_ID_BYTES = 20
STORE_ID_BYTES = 16
STEWARD_SHORT_BYTES = 4
BATCH_TASKS_MAX = 1_024
STEWARDS_MAX = 5

PeerId = NewType("PeerId", Annotated[bytes, Meta(min_length=32, max_length=32)])
MeshId = NewType("MeshId", Annotated[bytes, Meta(min_length=32, max_length=32)])
Digest = NewType("Digest", Annotated[bytes, Meta(min_length=32, max_length=32)])
BatchId = NewType("BatchId", Annotated[bytes, Meta(min_length=20, max_length=20)])
StoreId = NewType("StoreId", Annotated[bytes, Meta(min_length=16, max_length=16)])

_LIBP2P_PREFIX = bytes.fromhex("002408011220")  # identity multihash of protobuf {Ed25519, 32 bytes}
_DID_KEY_PREFIX = bytes.fromhex("ed01")  # multicodec ed25519-pub
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_TASK_ID = re.compile(r"([a-z2-7]{32})\.(0|[1-9][0-9]{0,3})((?:\.[a-z2-7]{7}){1,5})")


class TaskId(Struct, frozen=True, array_like=True, order=True):
    """One task of a batch, and where its outcome is kept.

    `stewards` holds the first four bytes of each steward's peer id: any member finds them in its
    directory, without a lookup.
    """

    batch: BatchId
    index: Annotated[int, Meta(ge=0, lt=BATCH_TASKS_MAX)]
    stewards: Annotated[
        tuple[Annotated[bytes, Meta(min_length=4, max_length=4)], ...],
        Meta(min_length=1, max_length=STEWARDS_MAX),
    ]

    def __str__(self) -> str:
        parts = [
            base32_text(self.batch),
            str(self.index),
            *(base32_text(short) for short in self.stewards),
        ]
        return ".".join(parts)


def task_id_from_text(text: str) -> TaskId:
    """Return the task id written as `text`. Raises MalformedId."""
    match = _TASK_ID.fullmatch(text)
    if match is None or int(match[2]) >= BATCH_TASKS_MAX:
        raise MalformedId(f"{text[:80]!r} is not a task id; `meshctl tasks` lists them")
    return TaskId(
        batch=BatchId(bytes_from_base32(match[1])),
        index=int(match[2]),
        stewards=tuple(bytes_from_base32(short) for short in match[3][1:].split(".")),
    )


def steward_short(peer: PeerId) -> bytes:
    """Return the part of a steward's peer id that task ids carry."""
    return peer[:STEWARD_SHORT_BYTES]


def peer_text(peer: PeerId) -> str:
    """Return libp2p's text of a peer id, `12D3KooW...`."""
    return _base58(_LIBP2P_PREFIX + peer)


def did_key(peer: PeerId) -> str:
    """Return the peer's key as a decentralised identifier, `did:key:z6Mk...`."""
    return f"did:key:z{_base58(_DID_KEY_PREFIX + peer)}"


def peer_from_text(text: str) -> PeerId:
    """Return the peer id written as libp2p's text or as `did:key`. Raises MalformedId."""
    is_did = text.startswith("did:key:z")
    prefix = _DID_KEY_PREFIX if is_did else _LIBP2P_PREFIX
    raw = _from_base58(text.removeprefix("did:key:z"))
    if len(raw) != len(prefix) + PEER_ID_BYTES or not raw.startswith(prefix):
        raise MalformedId(f"{text[:80]!r} is no Ed25519 peer id; `meshctl peers` lists them")
    return PeerId(raw[len(prefix) :])


def mesh_text(mesh: MeshId) -> str:
    """Return a mesh id as text: 52 characters of base32."""
    return base32_text(mesh)


def mesh_from_text(text: str) -> MeshId:
    """Return the mesh id written as `text`. Raises MalformedId."""
    return MeshId(_exact(text, 32, "mesh id"))


def digest_text(digest: Digest) -> str:
    """Return a BLAKE3 digest as text: 52 characters of base32."""
    return base32_text(digest)


def digest_from_text(text: str) -> Digest:
    """Return the digest written as `text`. Raises MalformedId."""
    return Digest(_exact(text, DIGEST_BYTES, "digest"))


def _exact(text: str, size: int, what: str) -> bytes:
    try:
        raw = bytes_from_base32(text)
    except MalformedId:
        raw = b""
    if len(raw) != size:
        raise MalformedId(f"{text[:80]!r} is not a {what}")
    return raw


def base32_text(raw: bytes) -> str:
    """Return `raw` in base32 (RFC 4648), small letters, without padding."""
    return base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def bytes_from_base32(text: str) -> bytes:
    """Return what `text` stands for. Raises MalformedId, also for a second spelling of it.

    Only the spelling of `base32_text` is accepted: no padding, no bits after the last byte.
    """
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError as error:
        raise MalformedId(f"{text[:80]!r} is not base32") from error
    if base32_text(raw) != text:
        raise MalformedId(f"{text[:80]!r} is not how base32 is written here")
    return raw


def _base58(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def _from_base58(text: str) -> bytes:
    if not 1 <= len(text) <= 80 or any(letter not in _BASE58 for letter in text):
        return b""
    number = 0
    for letter in text:
        number = number * 58 + _BASE58.index(letter)
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
