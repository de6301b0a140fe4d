"""Frames and files to structs and back, bounded before anything is parsed.

A frame is one version byte and a MessagePack array ``[tag, body]``, the body as `bin`: the envelope
is decoded alone first, so that an unknown message of a newer peer is skipped without parsing it.
Decoding verifies: every `Signed` part of a decoded message carries a good signature.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Generic, TypeVar

import msgpack
import msgspec

from wire.errors import BadSignature, FrameTooLarge, MalformedFrame
from wire.ids import PEER_ID_BYTES, PeerId
from wire.signed import (
    SIGNATURE_BYTES,
    SIGNED_BYTES_MAX,
    Signed,
    Verifier,
    encode_body,
    signing_bytes,
)
from wire.strict import decode_strictly

FRAME_VERSION = 1
FRAME_BYTES_MAX = 1 << 20
TAG_LETTERS_MAX = 40

Struct = TypeVar("Struct")


class UnknownMessage(msgspec.Struct, frozen=True):
    """A well-formed message with a tag we do not know: a newer peer, not a bad one."""

    tag: str


class Decoder(Generic[Struct]):
    """Decodes one type from untrusted bytes and verifies all signatures in it.

    It keeps no state between calls, so threads may share one. Signed parts nest as deep as the
    types do; none is recursive.
    """

    def __init__(self, kind: type[Struct], verifier: Verifier) -> None:
        self._verifier = verifier
        self._decoders: dict[object, msgspec.msgpack.Decoder[typing.Any]] = {}
        self._decoder = self._decoder_of(kind)

    def decode(self, received: bytes) -> Struct:
        """Return the struct in `received`. Raises MalformedFrame or BadSignature, nothing else."""
        return typing.cast(Struct, decode_strictly(self._decoder, received))

    def _decoder_of(self, kind: object) -> msgspec.msgpack.Decoder[typing.Any]:
        if kind not in self._decoders:
            self._decoders[kind] = msgspec.msgpack.Decoder(
                typing.cast(type, kind), dec_hook=self._decode_signed
            )
        return self._decoders[kind]

    def _decode_signed(self, kind: type, parts: object) -> object:
        if typing.get_origin(kind) is not Signed:
            raise NotImplementedError(f"{kind} has no wire form")
        match parts:
            case [bytes(received), bytes(signer), bytes(signature)] if (
                len(received) <= SIGNED_BYTES_MAX
                and len(signer) == PEER_ID_BYTES
                and len(signature) == SIGNATURE_BYTES
            ):
                return self._open(typing.get_args(kind)[0], received, PeerId(signer), signature)
        raise MalformedFrame("a signed part is [body, signer, signature]")

    def _open(
        self, kind: type[typing.Any], received: bytes, signer: PeerId, signature: bytes
    ) -> Signed[typing.Any]:
        message = signing_bytes(kind.DOMAIN, received)
        if not self._verifier.verify(message, signature, signer):
            raise BadSignature(f"{kind.__name__} is not signed by {signer.hex()}")
        return Signed(
            body=decode_strictly(self._decoder_of(kind), received, kind.__name__),
            received=received,
            signer=signer,
            signature=signature,
        )


class FrameCodec:
    """Encodes and decodes the messages of one protocol, each known by a tag.

    Tags are append-only: a retired one is never used again. New fields have defaults, unknown
    fields are ignored, so a peer of another minor version is understood.
    """

    def __init__(self, messages: Mapping[str, type], verifier: Verifier) -> None:
        self._tags = {kind: tag for tag, kind in messages.items()}
        self._decoders: dict[str, Decoder[object]] = {
            tag: Decoder(kind, verifier) for tag, kind in messages.items()
        }
        # Messages that say nothing but what they are, such as nearly every heartbeat.
        self._bare: dict[bytes, object] = {
            self.encode(kind()): kind() for kind in messages.values() if not _required(kind)
        }

    def encode(self, message: object) -> bytes:
        """Return the frame of `message`. Raises FrameTooLarge."""
        body = encode_body(message)
        frame = bytes([FRAME_VERSION]) + encode_envelope(self._tags[type(message)], body)
        if len(frame) > FRAME_BYTES_MAX:
            raise FrameTooLarge(f"{type(message).__name__} of {len(frame)} bytes")
        return frame

    def decode(self, frame: bytes) -> object:
        """Return the message in an untrusted `frame`, or an UnknownMessage.

        Raises MalformedFrame (BadSignature) and nothing else.
        """
        bare = self._bare.get(frame)
        if bare is not None:
            return bare
        if not 1 < len(frame) <= FRAME_BYTES_MAX:
            raise MalformedFrame(f"frame of {len(frame)} bytes")
        if frame[0] != FRAME_VERSION:
            raise MalformedFrame(f"frame version {frame[0]}, we speak {FRAME_VERSION}")
        tag, body = decode_envelope(frame[1:])
        decoder = self._decoders.get(tag)
        return UnknownMessage(tag) if decoder is None else decoder.decode(body)


def _required(kind: type) -> tuple[msgspec.structs.FieldInfo, ...]:
    return tuple(field for field in msgspec.structs.fields(kind) if field.required)


def encode_envelope(tag: str, body: bytes) -> bytes:
    """Return the MessagePack array ``[tag, body]``."""
    return typing.cast(bytes, msgpack.packb([tag, body]))


def decode_envelope(received: bytes) -> tuple[str, bytes]:
    """Return tag and body of an envelope. Raises MalformedFrame and nothing else."""
    try:
        envelope = msgpack.unpackb(
            received,
            max_array_len=2,
            max_bin_len=FRAME_BYTES_MAX,
            max_str_len=TAG_LETTERS_MAX,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedFrame(f"envelope: {error}") from error
    match envelope:
        case [str(tag), bytes(body)]:
            return tag, body
    raise MalformedFrame("an envelope is [tag, body]")
