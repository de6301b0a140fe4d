"""What becomes of messages and rows on their way: nothing, or what the daemon does to them.

By reference is fast and enough for most runs. Over the wire, each message is encoded, bounded,
decoded and verified as the daemon does it, so that what has no wire form is found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from simulations.disk import RowForm
from simulations.seeds import splitmix64
from wire.codec import FRAME_BYTES_MAX, Decoder, FrameCodec, UnknownMessage, encode_envelope
from wire.effects import Row
from wire.errors import FrameTooLarge, MalformedFrame
from wire.messages import MESSAGES, Message
from wire.signed import Verifier, encode_body

LENGTH_BYTES = 4  # before each frame, as in `p2p.framing`
FLIPS_MAX = 4
CORRUPT = object()

# A frame up to its body: length, version, and the envelope without the head of its `bin`.
_HEAD_BYTES: Mapping[type, int] = {
    kind: LENGTH_BYTES + 1 + len(encode_envelope(tag, b"")) - 2 for tag, kind in MESSAGES.items()
}


class ByReference:
    """Messages pass as the objects they are: their structs are frozen."""

    def __init__(self) -> None:
        self._sized: Message | None = None  # the last one: what goes to many is measured once
        self._bytes = 0

    def pack(self, message: Message) -> tuple[object, int]:
        """Return the message itself, and how long its frame would be. Raises FrameTooLarge."""
        if message is not self._sized:
            self._bytes = stream_bytes(message)
            self._sized = message
        return message, self._bytes

    def unpack(self, packed: object) -> Message | None:
        """Return the message itself. Raises MalformedFrame for a corrupt one."""
        if packed is CORRUPT:
            raise MalformedFrame("corrupt on the way")
        return cast(Message, packed)

    def corrupt(self, packed: object, fate: int) -> object:
        """Return what nobody accepts."""
        return CORRUPT


class OverTheWire:
    """Messages pass as frames of `/meshd/link/1`."""

    def __init__(self, verifier: Verifier) -> None:
        self._codec = FrameCodec(MESSAGES, verifier)

    def pack(self, message: Message) -> tuple[object, int]:
        """Return the frame, and its length with what goes before it. Raises FrameTooLarge."""
        frame = self._codec.encode(message)
        return frame, LENGTH_BYTES + len(frame)

    def unpack(self, packed: object) -> Message | None:
        """Return the message in a frame, None for an unknown one. Raises MalformedFrame."""
        message = self._codec.decode(cast(bytes, packed))
        return None if isinstance(message, UnknownMessage) else cast(Message, message)

    def corrupt(self, packed: object, fate: int) -> object:
        """Return the frame with one to four of its bits flipped, or fewer if one flips twice."""
        frame = bytearray(cast(bytes, packed))
        for _ in range(1 + fate % FLIPS_MAX):
            fate = splitmix64(fate)
            place = fate % (8 * len(frame))
            frame[place >> 3] ^= 1 << (place & 7)
        return bytes(frame)


def stream_bytes(message: Message) -> int:
    """Return how many bytes a message takes on the stream. Raises FrameTooLarge."""
    body_bytes = len(encode_body(message))
    bin_bytes = 2 if body_bytes < 1 << 8 else 3 if body_bytes < 1 << 16 else 5
    size_bytes = _HEAD_BYTES[type(message)] + bin_bytes + body_bytes
    if size_bytes > LENGTH_BYTES + FRAME_BYTES_MAX:
        raise FrameTooLarge(f"{type(message).__name__} of {size_bytes - LENGTH_BYTES} bytes")
    return size_bytes


class EncodedRows(RowForm):
    """Rows lie on the disk as bytes, and come back decoded and verified."""

    def __init__(self, kinds: Mapping[str, type[msgspec.Struct]], verifier: Verifier) -> None:
        self._decoders = {kind: Decoder(struct, verifier) for kind, struct in kinds.items()}

    def freeze(self, row: Row) -> Row:
        """Return the row with its value as bytes. Raises KeyError for a kind nobody declared."""
        if row.value is None:
            return row
        self._decoders[row.kind]  # a kind that could not be read again must not be written
        return Row(row.kind, row.key, _Encoded(encode_body(row.value)))

    def thaw(self, row: Row) -> Row:
        """Return the row with its value decoded and verified."""
        received = cast(_Encoded, row.value).received
        return Row(row.kind, row.key, self._decoders[row.kind].decode(received))


class _Encoded(msgspec.Struct, frozen=True):
    received: bytes
