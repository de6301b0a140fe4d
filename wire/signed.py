"""Signed bodies: what is verified is the bytes received, under a domain of their purpose.

A signed body is a struct with a class attribute `DOMAIN`, such as ``b"meshd/lease/1"``. The
signature (Ed25519, RFC 8032) covers ``DOMAIN + b"\\0" + body``, so that one given for one purpose
is worth nothing for another. A decoded `Signed` has been verified: there is no other way to get one
from bytes than `wire.codec`.
"""

from __future__ import annotations

from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from wire.errors import FrameTooLarge
from wire.ids import PeerId

SIGNATURE_BYTES = 64
SIGNED_BYTES_MAX = 512 * 1024


class SignedBody(Protocol):
    """A struct that somebody signs."""

    DOMAIN: ClassVar[bytes]


Body = TypeVar("Body", bound=SignedBody)


class Signed(Generic[Body]):
    """A body, the bytes it came as, who signed them, and the signature.

    `memo` is no part of it: a place for what a reader worked out from the body, so that all who
    hold this object need not work it out again.
    """

    __slots__ = ("body", "memo", "received", "signature", "signer")

    def __init__(self, *, body: Body, received: bytes, signer: PeerId, signature: bytes) -> None:
        self.body = body
        self.received = received
        self.signer = signer
        self.signature = signature
        self.memo: object = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signed) and self.to_wire() == other.to_wire()

    def __hash__(self) -> int:
        return hash(self.to_wire())

    def __repr__(self) -> str:
        return f"Signed({self.body!r})"

    def to_wire(self) -> tuple[bytes, PeerId, bytes]:
        """Return the three parts that travel: body bytes, signer and signature."""
        return self.received, self.signer, self.signature


def signing_bytes(domain: bytes, body: bytes) -> bytes:
    """Return what the signature of `body` covers."""
    return domain + b"\0" + body


class Signer(Protocol):
    """A device's private key, as the cores see it: injected, never read from anywhere."""

    @property
    def peer(self) -> PeerId:
        """The public half, which is the device's id."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`, 64 bytes."""
        ...

    def seal(self, secret: bytes, recipient: PeerId) -> bytes:
        """Return `secret` in a box that only `recipient` can open."""
        ...

    def unseal(self, box: bytes) -> bytes:
        """Return the secret in a `box` sealed to this device. Raises CannotUnseal."""
        ...


class Verifier(Protocol):
    """Checks signatures; the simulator has a faster one with the same interface."""

    def verify(self, message: bytes, signature: bytes, signer: PeerId) -> bool:
        """Say whether `signer` signed `message`."""
        ...


def sign(body: Body, signer: Signer) -> Signed[Body]:
    """Return `body` signed under its domain. Raises FrameTooLarge."""
    encoded = encode_body(body)
    if len(encoded) > SIGNED_BYTES_MAX:
        raise FrameTooLarge(
            f"{type(body).__name__} of {len(encoded)} bytes: nobody would decode it"
        )
    signature = signer.sign(signing_bytes(body.DOMAIN, encoded))
    return Signed(body=body, received=encoded, signer=signer.peer, signature=signature)


def encode_body(body: object) -> bytes:
    """Return the MessagePack bytes of a struct, the signed parts in it as they were received."""
    return _encoder.encode(body)


def _encode_signed(value: object) -> object:
    if isinstance(value, Signed):
        return value.to_wire()
    raise NotImplementedError(f"{type(value).__name__} has no wire form")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_signed)

__all__ = [
    "SIGNATURE_BYTES",
    "SIGNED_BYTES_MAX",
    "Body",
    "Signed",
    "SignedBody",
    "Signer",
    "Verifier",
    "encode_body",
    "sign",
    "signing_bytes",
]
